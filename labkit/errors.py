"""Every error labkit raises; each has a `code` that travels on the wire.

LabkitError
├── Refused              a server does not answer the request, or does not finish (Stopping)
│   ├── InvalidRequest   malformed or out of range                   code "invalid_request"
│   ├── TooLarge         more bytes than the server reads            code "too_large"
│   ├── Overloaded       too many open streams: try again later      code "overloaded"
│   └── Stopping         the server is going away                    code "stopping"
├── EngineFailed         the model broke while it was answering      code "engine_failed"
├── ConnectionLost       a stream broke off before its last event    code "connection_lost"
└── StartError           a server, engine or model cannot start      code "start_error"
"""


class LabkitError(Exception):
    """Base of all errors; `str(error)` is one line that a person can act on."""

    code = "error"


class Refused(LabkitError):
    code = "refused"


class InvalidRequest(Refused):
    code = "invalid_request"


class TooLarge(Refused):
    code = "too_large"


class Overloaded(Refused):
    code = "overloaded"


class Stopping(Refused):
    code = "stopping"


class EngineFailed(LabkitError):
    code = "engine_failed"


class ConnectionLost(LabkitError):
    code = "connection_lost"


class StartError(LabkitError):
    code = "start_error"


_KINDS = (InvalidRequest, TooLarge, Overloaded, Stopping, EngineFailed, ConnectionLost, StartError)
_BY_CODE = {kind.code: kind for kind in _KINDS}


def from_code(code: str, message: str) -> LabkitError:
    """The error that a server named by `code`; an unknown code becomes a plain `Refused`."""
    return _BY_CODE.get(code, Refused)(message)


def in_one_line(error: BaseException) -> str:
    """What went wrong, as an event or a log has it: the kind of the error and the first line that it says."""
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
