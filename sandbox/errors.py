"""What can go wrong around the sandbox, one class per fault that a caller can act on."""


class SandboxError(Exception):
    """Base of every error that this package raises on purpose."""


class EngineUnavailable(SandboxError):
    """The Docker engine does not answer; start it and call again, the same Sandbox resumes."""


class EngineRefused(SandboxError):
    """The engine answers, but not to this request (an unknown runtime, a limit it can't set); don't wait, change it."""


class ImageMissing(SandboxError):
    """The sandbox image is not on this engine; build it with deploy/sandbox_image.sh."""


class LanguageMissing(SandboxError):
    """The sandbox image does not speak the language; build the full one with `deploy/sandbox_image.sh full`."""


class BadTestCase(SandboxError):
    """A test case cannot be run as it stands (wrong kind, no JSON, assert code that does not parse)."""


class ContainerLost(SandboxError):
    """A container stopped answering or answered oddly. Ours, not the program's: judged again elsewhere."""
