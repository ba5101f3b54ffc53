"""`fairseq-mem-serve`: the command."""

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import ipaddress
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fairseq_mem_text.progress import hold_closed_streams
from fairseq_mem_text.version import __version__

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .service import Service

MOST_KEYS_BYTES = 1 << 20
SECONDS_BESIDE = 2.0  # beyond --drain-seconds, to send the last answers
PROGRAM = "fairseq-mem-serve"

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    """Reports a usage error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {message} (see {PROGRAM} --help)\n")


def _number(least: float, whole: bool) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = int(text) if whole else float(text)
        if not (math.isfinite(value) and value >= least):
            raise argparse.ArgumentTypeError(f"{text} is not {least:g} or more")
        return value

    number.__name__ = "number"
    return number


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = _Parser(
        prog=PROGRAM,
        description="Serves translations over HTTP, with LibreTranslate's interface and a page.",
        epilog="SIGTERM and SIGINT: no new requests, those under way are finished, exit status 0; "
        "a second one does not wait for them. SIGHUP: the folders and the keys are read again; "
        "what cannot be used is told, and what was there before serves on.",
    )
    parser.add_argument(
        "models", metavar="MODEL_DIR", nargs="+", help="folder made by fairseq-mem export"
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine alone)",
    )

    def add(flag: str, default: float, text: str, metavar: str = "N", least: float = 1) -> None:
        parser.add_argument(
            flag,
            type=_number(least, isinstance(default, int)),
            default=default,
            metavar=metavar,
            help=f"{text} (default {default:g})" if default < 10**6 else f"{text} (default 1 MiB)",
        )

    add("--port", 8000, "0 for any that is free", "PORT", 0)
    parser.add_argument(
        "--threads",
        type=_number(1, True),
        metavar="N",
        help="batches that are translated side by side (default: as many as there are cores)",
    )
    add("--batch-threads", 1, "cores for each of them")
    add("--max-batch-tokens", 4000, "source tokens that are translated together")
    add("--max-wait-ms", 10.0, "that a sentence waits for others while a core is free", "MS", 0)
    add("--max-body-bytes", 1 << 20, "of a request; more is answered with 413")
    add("--max-sentences", 1000, "of a request; more is answered with 422")
    parser.add_argument(
        "--max-sentence-tokens",
        type=_number(2, True),
        metavar="N",
        help="of a sentence, end mark included; more is answered with 422 (default: what the "
        "model takes)",
    )
    add("--max-requests", 256, "under way at a time; more are answered with 429")
    add("--request-seconds", 60.0, "for a request; then it is answered with 504", "S", 0.001)
    add("--drain-seconds", 30.0, "for what is under way at SIGTERM; then 503", "S", 0)
    parser.add_argument(
        "--no-split",
        action="store_true",
        help="every line is one sentence, unless a request asks for split_sentences",
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        type=Path,
        help="keys, one a line, of which a translation needs one (default: none is needed)",
    )
    parser.add_argument(
        "--no-access-log", action="store_true", help="no line for each request on standard error"
    )
    return parser


def read_keys(path: Path | None) -> frozenset[bytes]:
    """The SHA-256 of every key in a file.

    Raises:
        ValueError: there are none, or the file cannot be read.
    """
    if path is None:
        return frozenset()
    try:
        if not path.is_file():
            raise ValueError(f"--api-key-file {path}: there is no such file")
        if path.stat().st_size > MOST_KEYS_BYTES:
            raise ValueError(f"--api-key-file {path}: more than {MOST_KEYS_BYTES:,} bytes")
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ValueError(f"--api-key-file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"--api-key-file {path}: not UTF-8") from None
    keys = frozenset(hashlib.sha256(k.encode()).digest() for line in lines if (k := line.strip()))
    if not keys:
        raise ValueError(f"--api-key-file {path}: it has no key; write one a line, or leave it out")
    return keys


def bind(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet.

    Raises:
        ValueError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"cannot listen on --host {host} --port {port}: {what}; choose another"
        ) from None
    return listener


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return the exit status."""
    hold_closed_streams()
    args = build_parser().parse_args(argv)
    try:
        import prometheus_client  # noqa: F401
        import sentencex  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        return _failed(f"{error.name} is missing; run: pip install 'fairseq-mem-serve[http]'")
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger(__package__).setLevel(logging.INFO)
    try:
        with bind(args.host, args.port) as listener:
            return _serve(args, listener)
    except (ValueError, FileNotFoundError) as error:
        return _failed(str(error))
    except KeyboardInterrupt:  # while the models are loaded
        return _failed("stopped")


def _failed(message: str) -> int:
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
    return 1


def _serve(args: argparse.Namespace, listener: socket.socket) -> int:
    from .app import make_app
    from .metrics import Metrics
    from .models import Models
    from .service import Service
    from .settings import Settings

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = {field.name for field in dataclasses.fields(Settings)} - {"api_keys", "split"}
    told = {name: getattr(args, name) for name in names}
    told["threads"] = args.threads or max(1, (cores or 1) // args.batch_threads)
    settings = Settings(**told, split=not args.no_split, api_keys=read_keys(args.api_key_file))
    metrics = Metrics()
    models = Models(args.models, settings, metrics)
    service = Service(models, settings, metrics)
    for pair in models.pairs:
        logger.info(
            "%s-%s: each sentence is translated by itself; exported models carry no memory from "
            "one to the next",
            *pair,
        )
    if not settings.api_keys and not _is_loopback(listener):
        logger.warning("open to whoever reaches %s, without --api-key-file", args.host)
    app = make_app(service, access_log=not args.no_access_log)
    asyncio.run(_run(app, service, listener, args.api_key_file))
    logger.info("stopped")
    if not service.end():  # a thread is still in a batch that nobody waits for
        logging.shutdown()
        os._exit(0)
    return 0


def _is_loopback(listener: socket.socket) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
    return False


async def _run(
    app: "ASGIApp", service: "Service", listener: socket.socket, keys: Path | None
) -> None:
    """Answer requests until a signal says to stop."""
    import uvicorn

    class Server(uvicorn.Server):
        """One that leaves signals to us; it would end the process by the signal in the end."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    drain = service.settings.drain_seconds
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(drain + SECONDS_BESIDE),
    )
    server = Server(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if service.stopping:
            service.give_up()
            return
        logger.info("stopping: no new requests, those under way have %g seconds", drain)
        service.stopping = True
        server.should_exit = True
        loop.call_later(drain, service.give_up)

    def again() -> None:
        logger.info("reading the folders and the keys again")
        try:
            api_keys = read_keys(keys)
            service.settings = dataclasses.replace(service.settings, api_keys=api_keys)
        except ValueError as error:
            logger.error("the keys from before stay: %s", error)
        loop.run_in_executor(None, service.models.reload)

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, again)
    serving = asyncio.ensure_future(server.serve([listener]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    host, port = listener.getsockname()[:2]
    logger.info("ready on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    _tell_supervisor()
    await serving


def _tell_supervisor() -> None:
    """Tell systemd, if it waits for that, that requests are answered."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] in ("/", "@"):
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        ):
            notify.connect("\0" + path[1:] if path[0] == "@" else path)
            notify.sendall(b"READY=1")
