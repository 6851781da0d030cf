"""The peer: Quix Streams doing the benches' job. Run in its own virtual environment, it knows nothing of penstock.

    python quix.py pass   --bootstrap … --group … --input … --output … --state DIR
    python quix.py window … --network FILE --weights FILE --packages DIR

`pass` consumes and produces, JSON both ways. `window` keeps the last samples of each key in the state store and runs the module
on them at each record. Both exactly once, until SIGTERM.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quixstreams import Application, State

Job = Callable[[dict[str, Any], State], dict[str, Any]]


def window_job(network: Path, weights: Path, threads: int) -> Job:
    """The module on the window of its receptive field, one record at a time."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    module = runpy.run_path(str(network))["Network"]()
    module.load_state_dict(load_file(weights))
    module.eval()
    history = module.receptive_field - 1

    def predict(value: dict[str, Any], state: State) -> dict[str, Any]:
        chunk = np.array(value["x"], dtype=np.float32)
        past = np.frombuffer(state.get_bytes("window", default=b""), dtype=np.float32).reshape(-1, chunk.shape[1])
        frames = np.concatenate([past, chunk])
        state.set_bytes("window", frames[-history:].tobytes())
        with torch.inference_mode():
            y = module(torch.from_numpy(frames.T)[None])[0, :, -len(chunk) :]
        return {"t": value["t"], "y": y.T.tolist()}

    return predict


def application(arguments: argparse.Namespace) -> Application:
    return Application(
        broker_address=arguments.bootstrap,
        consumer_group=arguments.group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=arguments.commit_interval,
        state_dir=arguments.state,
        loglevel="WARNING",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Quix Streams doing the benches' job")
    parser.add_argument("job", choices=["pass", "window"])
    for name in ("--bootstrap", "--group", "--input", "--output"):
        parser.add_argument(name, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--commit-interval", type=float, default=0.1, help="seconds")
    parser.add_argument("--network", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--packages", help="where torch, safetensors and jaxtyping lie")
    parser.add_argument("--threads", type=int, default=1, help="of torch; at a batch of one, more only wait for one another")
    arguments = parser.parse_args()

    app = application(arguments)
    frame = app.dataframe(app.topic(arguments.input))
    if arguments.job == "window":
        sys.path.append(arguments.packages)
        frame = frame.apply(window_job(arguments.network, arguments.weights, arguments.threads), stateful=True)
    frame.to_topic(app.topic(arguments.output))
    app.run()


if __name__ == "__main__":
    main()
