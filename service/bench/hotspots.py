"""Where a record's microseconds go: the worker in this process, on the load of `penstock bench service`, under a sampler.

python -m service.bench.hotspots [--records 200000] [--identity] [--least 0.3]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path

from service.app import Application
from service.bench.contenders import Site, configure, network_model
from service.bench.load import Load, fill
from service.bench.measure import commits
from service.bench.sampling import Sampler
from service.config import load as read_configuration
from service.demo.broker import KafkaNode
from service.transport.kafka import KafkaTransport


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--identity", action="store_true", help="without the network")
    parser.add_argument("--least", type=float, default=0.3, help="microseconds per record below which a line is left out")
    arguments = parser.parse_args()
    load = Load(records=arguments.records)
    with KafkaNode() as broker, tempfile.TemporaryDirectory() as folder:
        site = Site(broker.bootstrap, "hotspots", "input", "output", Path(folder))
        model = {"factory": "torch.nn:Identity"} if arguments.identity else network_model(site)
        topics = configure(site, load, model)
        application = Application.from_config(read_configuration(site.configuration))
        transport = KafkaTransport({"bootstrap.servers": broker.bootstrap})
        transport.admin().create(topics, 30.0)
        fill(transport.publisher(), site.input, load)
        stop = threading.Event()
        watcher = threading.Thread(
            target=_stop_at_end, args=(KafkaTransport({"bootstrap.servers": broker.bootstrap}), load, stop), daemon=True
        )
        watcher.start()
        with Sampler() as sampler:
            application.run(transport, stop)
        watcher.join()
    tree = sampler.tree(within="Worker._feed")
    each = 1e6 / load.records
    print(f"{load.records / tree.wall:,.0f} records/s; microseconds per record, wall and processor:")
    print(f"{tree.wall * each:7.2f} {tree.cpu * each:7.2f}")
    for depth, name, node in tree.lines(least=arguments.least / each):
        print(f"{node.wall * each:7.2f} {node.cpu * each:7.2f}  {'  ' * depth}{name}")


def _stop_at_end(transport: KafkaTransport, load: Load, stop: threading.Event) -> None:
    for now in commits(transport, "hotspots", "input"):
        if now.records >= load.records:
            stop.set()
            return


if __name__ == "__main__":
    main()
