"""The engine's errors, as classes that carry numbers. Knows nothing of HTTP.

EngineError
├── CheckpointError              a model on disk that cannot be used
│   ├── CheckpointNotFound       there is no model there
│   ├── CheckpointCorrupt        a file contradicts itself or its size
│   └── CheckpointUnsupported    a key of the configuration asks for what is not implemented
├── RequestError                 a request that this model cannot answer; carries the parameter's name
│   ├── ParameterInvalid
│   ├── ContextLengthExceeded
│   ├── GrammarInvalid           a schema, pattern or grammar that cannot be followed
│   ├── MemoryExceeded           not even an idle engine has room for the request's keys and values
│   └── TemplateFailed           the chat template refused the messages
├── ChoiceInvalid                an option does not fit this model, or does not go together with another
├── KernelsUnavailable           the native kernels cannot be built or loaded; never fatal
├── NotFinite                    a model's output is no number: its weights or its input are at fault
├── ConversionError              a model folder cannot be written: see engine.conversion.errors
├── CompressionError             a model cannot be measured, pruned or taught: see engine.evaluation.errors
└── StepFailed                   a step raised; the rows in it are lost, the engine goes on
"""

_MAX_SHOWN = 200


class EngineError(Exception):
    """Base of every error the engine raises on purpose. str() is one sentence fit for a client."""


class CheckpointError(EngineError):
    """A model on disk that cannot be used."""


class CheckpointNotFound(CheckpointError):
    """There is no model at this place, or a file of it is missing."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class CheckpointCorrupt(CheckpointError):
    """A file contradicts itself or its size. `file` is a bare name, never a path."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} is damaged: {reason}")
        self.file = file
        self.reason = reason


class CheckpointUnsupported(CheckpointError):
    """A configuration key has a value that changes the maths and is not implemented."""

    def __init__(self, key: str, value: object, supported: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
        super().__init__(f"{key} = {shown} is not supported (supported: {supported})")
        self.key = key
        self.value = value
        self.supported = supported


class RequestError(EngineError):
    """A request that this model cannot answer. `param` names the field at fault."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class ParameterInvalid(RequestError):
    """A parameter's value is outside what this model or the engine accepts."""


class ContextLengthExceeded(RequestError):
    """The prompt leaves no room for a single token. Counts are tokens."""

    def __init__(self, prompt_tokens: int, limit: int, param: str = "prompt") -> None:
        super().__init__(
            param,
            f"This model's maximum context length is {limit} tokens, but the prompt has {prompt_tokens}: "
            "prompt is too long (context_length_exceeded).",
        )
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class GrammarInvalid(RequestError):
    """A schema, pattern or grammar that cannot be followed. `reason` is a part of a sentence."""

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(param, f"{param} cannot be followed: {reason}.")
        self.reason = reason


class MemoryExceeded(RequestError):
    """Keys and values of this request alone are more than the engine may hold. Counts are bytes."""

    def __init__(self, needed_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            "max_tokens",
            f"This request may need {needed_bytes / 1e6:.0f} MB for keys and values; {limit_bytes / 1e6:.0f} MB is all "
            "there is.",
        )
        self.needed_bytes = needed_bytes
        self.limit_bytes = limit_bytes


class TemplateFailed(RequestError):
    """The chat template refused the messages, or the model has none."""

    def __init__(self, message: str) -> None:
        super().__init__("messages", message)


class ChoiceInvalid(EngineError):
    """An option does not fit this model, or does not go together with another. `option` names it."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option


class NotFinite(EngineError):
    """The model's output for an input is not a finite number. `index` is the input's, `param` the field it came in."""

    def __init__(self, param: str, index: int) -> None:
        super().__init__(f"The model's output for {param}[{index}] is not a finite number; nothing of it is sent.")
        self.param = param
        self.index = index


class StepFailed(EngineError):
    """An exception inside a step. The rows of that step are lost; the engine goes on."""


class KernelsUnavailable(EngineError):
    """The native kernels cannot be built or loaded here. `reason` is one line; everything works without them."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"There are no native kernels: {reason}.")
        self.reason = reason
