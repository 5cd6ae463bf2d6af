"""What a person can get wrong before anything runs."""


class RecipeError(Exception):
    """A recipe that can't be used; the text says where, what was found, what is allowed."""


class UsageError(Exception):
    """A command that can't be carried out as it was given; the text names the remedy."""
