"""Serves an exported model: `python -m mmjax.serving --model DIR [--index DIR] [--port P] [--device cpu|cuda] ...`."""

import argparse
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import uvicorn

from mmjax import ending
from mmjax.errors import UserError
from mmjax.serving.app import make_app
from mmjax.serving.batching import batch_config
from mmjax.serving.fusion_model import FusionModel
from mmjax.serving.fusion_service import FusionService
from mmjax.serving.lanes import BatchConfig
from mmjax.serving.limits import MEBI, Limits
from mmjax.serving.loading import load
from mmjax.serving.model import DTYPES, ModelConfig
from mmjax.serving.quantize import QUANTIZATIONS
from mmjax.serving.search import SearchIndex
from mmjax.serving.service import Service

SWITCH_SECS = 0.0005
"""How long one Python thread may keep others waiting: Python's 5 ms are longer than most operations of a model."""
CONNECTIONS = 1024
KEEP_ALIVE_SECS = 30
GRACE_SECS = 30
"""For requests in progress when the process is told to end; Kubernetes gives as many."""


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    counts = (options.max_batch, options.max_body_mib, options.answer_secs)
    if any(count is not None and count < 1 for count in counts) or options.max_wait_ms < 0:
        raise UserError(
            "--max-batch, --max-body-mib and --answer-secs start at 1, --max-wait-ms at 0: give larger values"
        )
    model = load(ModelConfig(options.model, options.device, options.dtype, options.quantize))
    index = None if options.index is None else SearchIndex(options.index, model.fingerprint)
    limits = Limits(
        body_bytes=options.max_body_mib * MEBI,
        all_bodies_bytes=8 * options.max_body_mib * MEBI,
        answer_secs=options.answer_secs,
    )
    batching = batch_config(options.device, options.max_batch, options.max_wait_ms)
    make = partial(FusionService, model) if isinstance(model, FusionModel) else partial(Service, model)
    service = make(index, limits, batching)
    sys.setswitchinterval(SWITCH_SECS)
    serve(service, options.host, options.port)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mmjax.serving", description="Serves an exported model.")
    parser.add_argument("--model", type=Path, required=True, help="exported folder (Hugging Face layout)")
    parser.add_argument("--index", type=Path, help="folder that python -m mmjax.serving.index wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=8000, help="0 chooses a free one")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--quantize", choices=QUANTIZATIONS, help="int8 linear layers, on the CPU")
    parser.add_argument("--max-batch", type=int, help="images or texts of one batch (8 on CPUs, else 32)")
    wait_help = "how long an idle model waits for more rows after the first"
    parser.add_argument("--max-wait-ms", type=float, default=BatchConfig.max_wait_ms, help=wait_help)
    parser.add_argument("--max-body-mib", type=int, default=Limits.body_bytes // MEBI, help="largest request")
    parser.add_argument("--answer-secs", type=float, default=Limits.answer_secs, help="longest time to an answer")
    return parser.parse_args(arguments)


def serve(service: Service, host: str, port: int) -> None:
    """Runs until SIGTERM or Ctrl-C: takes no new requests then, answers those it has, and returns.

    Raises:
        UserError: it may not listen there.
    """
    with _listening(host, port) as listener:
        # h11 bounds the headers of a request; uvicorn's faster parser does not.
        config = uvicorn.Config(
            make_app(service),
            http="h11",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECS,
            timeout_graceful_shutdown=GRACE_SECS,
        )
        print(f"serving on http://{host}:{listener.getsockname()[1]}", flush=True)
        # Uvicorn sends itself the signal again once it has ended.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host} port {port} ({error}): choose another --host or --port") from error


if __name__ == "__main__":
    sys.exit(ending.status(main, sys.argv[1:]))
