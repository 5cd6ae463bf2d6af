"""What can go wrong in a stage, one class for each fault that a caller can act on."""


class StageError(Exception):
    """Base of all stage faults; its text is one or two lines and names the remedy."""


class UnreadableSource(StageError):
    """A whole file or data set can't be read."""


class BadSetting(StageError):
    """A setting is well-formed but can't be used here, such as a column that the file hasn't got."""


class MissingInput(StageError):
    """A stage needs what an earlier one hasn't made yet."""


class NothingToTrainOn(StageError):
    """The export holds no training example."""


class SelfTestFailed(StageError):
    """The verifiers pass a limit that the recipe sets for their own errors."""
