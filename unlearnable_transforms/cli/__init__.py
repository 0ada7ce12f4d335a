"""The command ``unlearnable``: one file a command, each thin."""
