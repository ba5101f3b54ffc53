"""What the server is told at its start, and how far a request may go."""

from dataclasses import dataclass

MOST_BEAM = 16


@dataclass(frozen=True)
class Settings:
    """The limits of the server.

    Attributes:
        max_body_bytes: of a request's body.
        max_sentences: of a request, after its text was split; blank ones are not counted.
        max_sentence_tokens: subword tokens of a sentence with the end mark; None for what the model
            takes.
        max_requests: under way at a time, those that wait among them; others are refused.
        request_seconds: from a request's first byte to its answer.
        drain_seconds: that requests under way have left when the server is told to stop.
        max_batch_tokens: source tokens that are translated together.
        max_wait_ms: milliseconds that a sentence waits for others while a core is free.
        threads: batches that are translated side by side.
        batch_threads: cores for each of them.
        split: whether text is split into sentences where a request does not say.
        api_keys: SHA-256 of the keys of which a request must have one; empty: none is needed.
    """

    max_body_bytes: int = 1 << 20
    max_sentences: int = 1000
    max_sentence_tokens: int | None = None
    max_requests: int = 256
    request_seconds: float = 60.0
    drain_seconds: float = 30.0
    max_batch_tokens: int = 4000
    max_wait_ms: float = 10.0
    threads: int = 1
    batch_threads: int = 1
    split: bool = True
    api_keys: frozenset[bytes] = frozenset()


class Refused(Exception):
    """A request that is not carried out.

    Attributes:
        status: of HTTP.
        message: what is wrong and what to do; never the text that was sent.
        headers: of the answer, besides the usual ones.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}
