"""The command ``unlearnable``: one file a command, each thin."""

ERROR = 2  # also what argparse exits with
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
