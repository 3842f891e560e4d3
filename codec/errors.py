"""The one error that users of soundloom meet."""


class SoundloomError(Exception):
    """Input that cannot be used; the message names the thing, what is wrong with it and what would be right.

    Programs print it as ``error: …`` and exit with code 2; libraries may catch it. Anything else that
    escapes is a defect of soundloom.
    """
