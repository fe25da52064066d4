"""Every exception fathom raises on purpose.

    FathomError            exit code 1: something failed
      EngineError          the engine could not go on
      WorkerError          a worker process died or does not answer
      TrainingError        training cannot go on (a loss that is not a number, ...)
      InputError           exit code 2: the caller can mend it
        ConfigError        a configuration, a recipe, a flag
        CheckpointError    a file of weights, a tokenizer, a training state
        RequestError       one request to the engine or the server

A message follows one template: what it is (value and unit), what it must be, what to do.
"""


class FathomError(Exception):
    """Base of all; `str(error)` is one readable line."""

    exit_code = 1


class EngineError(FathomError):
    """The engine could not go on. `code` is the machine-readable reason, as clients of the server get it."""

    def __init__(self, message: str, *, code: str = "engine_error") -> None:
        super().__init__(message)
        self.code = code


class WorkerError(FathomError):
    """A worker process died or does not answer."""


class TrainingError(FathomError):
    """Training cannot go on."""


class InputError(FathomError):
    """The caller's input cannot be used; the message says what to change."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration value is missing, unknown or out of range."""


class CheckpointError(InputError):
    """A file on disk is missing, damaged or does not match the configuration."""


class RequestError(InputError):
    """A request asks for something that cannot be served.

    `param` names the field at fault; `code` is the machine-readable reason (OpenAI's names).
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
