"""Serve a voice: OpenAI's speech API, a page to try it, and Wyoming for Home Assistant.

    python pipelines/serve.py                                     # http://127.0.0.1:8000
    python pipelines/serve.py --wyoming-port 10200                # Home Assistant too (extra: wyoming)
    SOUNDLOOM_API_KEY=... python pipelines/serve.py --host 0.0.0.0
    curl -s http://127.0.0.1:8000/v1/audio/speech -d '{"input": "hello world"}' -o hello.mp3

Needs the extra `serve`: pip install -e '.[serve]'. Everything is read-only and stays in memory. Without --host
only this machine can reach it. docs/serve.md has the clients' settings and the limits.
Exit code: 0; 2 for bad input.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.common.extras import install_hint
from codec.errors import SoundloomError
from pipelines.command_line.run import check_numbers, make_parser, run, set_threads

if TYPE_CHECKING:
    from pipelines.server.service import Service

KEY_VARIABLE = "SOUNDLOOM_API_KEY"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = make_parser("serve.py", __doc__)
    options.add_argument("--voice", help="a folder, a shipped voice's name, or a hub name (default: the shipped one)")
    options.add_argument(
        "--music", help="the model for music, a folder or a hub name (default: the shipped one, if any)"
    )
    options.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    options.add_argument("--port", type=int, default=8000, help="port of the HTTP server (default: 8000)")
    options.add_argument("--wyoming-port", type=int, help="also speak Wyoming on this port (usually 10200)")
    options.add_argument("--api-key-file", help=f"file with the key that clients must send; or set {KEY_VARIABLE}")
    options.add_argument("--allow-cloning", action="store_true", help="take recordings of speakers to sound like")
    options.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="a web page's origin to admit")
    options.add_argument(
        "--host-name", action="append", default=[], help="a name, besides this machine's, to answer to"
    )
    options.add_argument("--slots", type=int, default=8, help="sentences written at once (default: 8)")
    options.add_argument("--queue", type=int, default=32, help="requests that may wait; more get 429 (default: 32)")
    options.add_argument("--max-seconds", type=float, default=300, help="time limit of a request (default: 300)")
    options.add_argument("--device", default="cpu", help="where the models run: auto, cpu, cuda or mps (default: cpu)")
    options.add_argument("--threads", type=int, default=1, help="threads for each network (default: 1)")
    options.add_argument("--lanes", type=int, default=1, help="threads that write from five sentences on (default: 1)")
    options.add_argument("--no-batching", action="store_true", help="write each sentence alone, in turns; to compare")
    return options


def api_key(path: str | None) -> str | None:
    """Return the key from the file or the environment. Raises: SoundloomError."""
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise SoundloomError(f"{path}: cannot be read ({error}); expected a file with the API key") from None
    if not key:
        raise SoundloomError(f"{path}: is empty; expected the API key")
    return key


def checked_music(name: str | None) -> str | None:
    """Return the folder of a music model that was named. Raises: SoundloomError where there is none."""
    if name is None:
        return None
    from pipelines.music_model.folder import find_music

    return str(find_music(name))


def make_service(options: argparse.Namespace) -> Service:
    """Open the voice and return the service. Raises: SoundloomError."""
    from pipelines.server.engine import Engine, EngineSettings
    from pipelines.server.service import Service, ServiceSettings
    from pipelines.voice.voice import load_voice

    ports: dict[str, tuple[float, float]] = {"port": (0, 65535), "wyoming_port": (0, 65535)}
    check_numbers(options, slots=(1, 64), queue=(0, 10_000), max_seconds=(1, 86_400), lanes=(1, 16), **ports)
    set_threads(options.threads)
    settings = EngineSettings(options.slots, options.queue, options.max_seconds, not options.no_batching, options.lanes)
    local = options.host in _LOOPBACK
    rules = ServiceSettings(
        api_key=api_key(options.api_key_file),
        allow_cloning=options.allow_cloning,
        origins=tuple(options.cors),
        music=checked_music(options.music),
        hosts=(*_LOOPBACK, *(name.lower() for name in options.host_name)) if local or options.host_name else (),
    )
    if not local and rules.api_key is None:
        print(f"warning: {options.host} is open to others without a key; set {KEY_VARIABLE}", file=sys.stderr)
    return Service(Engine(load_voice(options.voice, device=options.device), settings), rules)


async def serve(service: Service, options: argparse.Namespace) -> None:
    """Serve until interrupted."""
    import uvicorn

    from pipelines.server.app import create_app

    limits: dict[str, Any] = {
        "timeout_keep_alive": 30,
        "h11_max_incomplete_event_size": 32 * 1024,
        "ws_max_size": 256 * 1024,
    }
    config = uvicorn.Config(
        create_app(service),
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,  # ours has one line a request, without query strings
        server_header=False,
        **limits,
    )
    tasks = [uvicorn.Server(config).serve()]
    if options.wyoming_port is not None:
        from pipelines.server.wyoming_port import serve_wyoming

        tasks.append(serve_wyoming(service, options.host, options.wyoming_port))
    print(f"soundloom serves {service.engine.voice.name} at http://{options.host}:{options.port}", file=sys.stderr)
    running = [asyncio.ensure_future(task) for task in tasks]
    done, left = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    for task in done:
        task.result()


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        import starlette  # noqa: F401 - fail here, in one line, and not after the models are open
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise SoundloomError(f"{error.name} is missing; {install_hint('serve')}") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(make_service(options), options))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
