"""``unlearnable app``: a page in the browser, served to this computer alone, for people who use no command line.

The page calls the functions that the command line calls, so that both write the same bytes.
"""
