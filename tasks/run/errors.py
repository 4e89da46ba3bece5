"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Something a person can put right. The message is one line: what is wrong, and what to do."""
