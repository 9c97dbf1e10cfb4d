"""An answer of the simulated Bedrock that is an error, spelled as AWS spells it."""

import msgspec


class Refusal(Exception):
    """Status, exception name and message, exactly as they go over the wire."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.status = status
        self.name = name
        self.message = message

    @property
    def body(self) -> bytes:
        """The body of the answer."""
        return msgspec.json.encode({"message": self.message})

    @property
    def headers(self) -> dict[str, str]:
        """Where SDKs look for the name."""
        return {"x-amzn-ErrorType": self.name}


def invalid(message: str) -> Refusal:
    """A ``ValidationException``."""
    return Refusal(400, "ValidationException", message)


def missing(message: str) -> Refusal:
    """A ``ResourceNotFoundException``."""
    return Refusal(404, "ResourceNotFoundException", message)


def denied(message: str) -> Refusal:
    """An ``AccessDeniedException``."""
    return Refusal(403, "AccessDeniedException", message)
