"""`penstock replay`: a part of the input, computed again, into another topic."""

from __future__ import annotations

import orjson

from service.app import Application
from service.config import Config
from service.extent import Extent
from service.recompute import replay as recompute
from service.transport.interface import Transport


def replay(config: Config, transport: Transport, into: str, extent: Extent, as_json: bool) -> None:
    """Print what has been done. Raises what `service.recompute.replay` raises."""
    done = recompute(Application.from_config(config), transport, into, extent)
    if as_json:
        print(orjson.dumps(done.to_dict()).decode())
        return
    print(f"{done.predictions} predictions of {done.records} records published to {into}; {done.refused} records are refused")
    if done.keys_left_out:
        print(f"{done.keys_left_out} keys were left out until their next stream: the log no longer holds where their streams began")
    if done.keys_in_doubt:
        print(
            f"{done.keys_in_doubt} keys have records that are older than the dead letters that are left: any of those that were "
            "refused as step_failed or kills have been fed"
        )
