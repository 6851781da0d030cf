"""The command line: thin commands, one place where errors become messages and exit codes.

A command imports what it needs when it runs, so that help and configuration checks never wait for torch.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service import __version__
from service.errors import ConfigurationError, Fenced, NotStreamable, PenstockError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The application's YAML file.", show_default=False)]

_TIME = "a time (2026-01-31T08:00, UTC) or a duration before now (2h); Kafka's time of the input record"
Begin = Annotated[str | None, typer.Option("--from", metavar="TIME", help=f"Leave out what came before: {_TIME}.")]
End = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Leave out what came at this time or later.")]
Keys = Annotated[list[str] | None, typer.Option("--keys", metavar="KEY", help="Only this key; may be given again.")]


class ErrorBoundary(TyperGroup):
    """Ends every command that raises on purpose with one message on standard error and the exit code of its kind."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PenstockError as error:
            if ctx.params["debug"]:
                traceback.print_exception(error)
            else:
                print(error, file=sys.stderr)
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(130) from interrupt


def exit_code(error: PenstockError) -> int:
    match error:
        case ConfigurationError() | NotStreamable():
            return 2
        case Fenced():
            return 3
        case _:
            return 1


main = typer.Typer(
    name="penstock",
    cls=ErrorBoundary,
    help="Exactly-once stream processing of sensor topics with PyTorch networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config = typer.Typer(help="Check, show and describe configurations, without connecting to anything.", no_args_is_help=True)
main.add_typer(config, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"penstock {__version__}")
        raise typer.Exit


@main.callback()
def penstock(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What all commands have in common."""


@config.command("check")
def config_check(path: ConfigFile) -> None:
    """Validate a configuration and the files that it names."""
    from service.config import InputFormat, load

    settings = load(path)
    if settings.input.format is InputFormat.AVRO:
        from service.codec import decoder

        decoder(settings)  # reads the Avro schema
    print(f"{path}: valid; {settings.app} reads {settings.input.topic} and writes {settings.output.topic}")


@config.command("show")
def config_show(path: ConfigFile) -> None:
    """Print the effective settings, defaults included, with secrets redacted."""
    import yaml

    from service.config import load, shown

    print(yaml.safe_dump(shown(load(path)), sort_keys=False, allow_unicode=True), end="")


@config.command("schema")
def config_schema(
    path: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="Not read: the schema is the same for all.")] = None,
) -> None:
    """Print the JSON Schema of configurations, for editors."""
    import json

    from service.config import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


model = typer.Typer(help="What the network looks like when it streams, and proof that it does so exactly.", no_args_is_help=True)
main.add_typer(model, name="model")
bench = typer.Typer(help="Figures beside those of peers, from one run.", no_args_is_help=True)
main.add_typer(bench, name="bench")


@main.command()
def run(
    path: ConfigFile,
    accept_fingerprint: Annotated[
        bool, typer.Option("--accept-fingerprint", help="Replay input that another version of the program has processed.")
    ] = False,
) -> None:
    """Run the worker until SIGTERM or SIGINT; then finish, commit, leave."""
    import gc

    gc.disable()  # while what lives as long as the process is loaded, which is a fifth of the time that takes
    from service.config import load
    from service.observe.logging import configure_logging
    from service.settings import ahead
    from service.transport.kafka import KafkaTransport

    settings = load(path)
    configure_logging(settings.log.format, settings.log.level)
    transport = ahead(settings, KafkaTransport(settings.kafka))  # connects while torch is loaded
    from service.commands.run import run as work

    work(settings, transport, accept_fingerprint)


@main.command()
def topics(
    path: ConfigFile,
    create: Annotated[bool, typer.Option("--create", help="Create what is missing.")] = False,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the input topic, where it is missing.")] = 4,
    replication: Annotated[int | None, typer.Option(min=1, help="Replicas of new topics; by default the broker's.")] = None,
) -> None:
    """Show the topics that the application needs, what is missing or wrong."""
    from service.commands.topics import topics as show
    from service.config import load
    from service.transport.kafka import KafkaTransport

    settings = load(path)
    show(settings, KafkaTransport(settings.kafka), create, partitions, replication)


@model.command("show")
def model_show(path: ConfigFile) -> None:
    """Operators, receptive field, delay, bytes per key."""
    from service.commands.model import show
    from service.config import load

    show(load(path))


@model.command("verify")
def model_verify(path: ConfigFile) -> None:
    """Show on random chunkings that streamed equals offline."""
    from service.commands.model import verify
    from service.config import load

    verify(load(path))


@main.command()
def audit(
    path: ConfigFile,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    begin: Begin = None,
    end: End = None,
    keys: Keys = None,
) -> None:
    """Judge what was published against the plain network, offline. Exit 0 only when all is right."""
    from service.commands.audit import audit as judge
    from service.config import load
    from service.extent import Extent
    from service.transport.kafka import KafkaTransport

    settings = load(path)
    if not judge(settings, KafkaTransport(settings.kafka), json, Extent.parse(begin, end, keys)):
        raise typer.Exit(1)


@main.command()
def replay(
    path: ConfigFile,
    into: Annotated[str, typer.Option("--into", metavar="TOPIC", help="A topic of its own, made where it is missing.")],
    begin: Begin = None,
    end: End = None,
    keys: Keys = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compute a part of the input again, with the network as it is now, into another topic. The group is not touched."""
    from service.commands.replay import replay as recompute
    from service.config import load
    from service.extent import Extent
    from service.transport.kafka import KafkaTransport

    settings = load(path)
    recompute(settings, KafkaTransport(settings.kafka), into, Extent.parse(begin, end, keys), json)


@main.command()
def produce(
    path: ConfigFile,
    file: Annotated[Path | None, typer.Option(help='JSON lines {"key", "t", "x"}; - is standard input.')] = None,
    keys: Annotated[int, typer.Option(min=1, help="Made-up signals: how many devices.")] = 3,
    records: Annotated[int, typer.Option(min=1, help="Records per device.")] = 20,
    samples: Annotated[int, typer.Option(min=1, help="Samples per record.")] = 100,
    end: Annotated[bool, typer.Option("--end", help="End every stream with a null value.")] = False,
    realtime: Annotated[bool, typer.Option("--realtime", help="As fast as devices would.")] = False,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
) -> None:
    """Publish sample records to the input topic: from a file, or made-up sines with noise."""
    from service.commands.produce import Signal
    from service.commands.produce import produce as publish
    from service.config import load
    from service.transport.kafka import KafkaTransport

    settings = load(path)
    count = publish(settings, KafkaTransport(settings.kafka), Signal(keys, records, samples, end, realtime, seed), file)
    print(f"{count} records published to {settings.input.topic}" if count else "there are no records in the file")


@main.command()
def tail(
    path: ConfigFile,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Not only what comes from now on.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The records as they are.")] = False,
) -> None:
    """Print predictions as they are committed."""
    from service.commands.tail import tail as follow
    from service.config import load
    from service.transport.kafka import KafkaTransport

    settings = load(path)
    follow(settings, KafkaTransport(settings.kafka), from_beginning, count, json)


@main.command()
def demo(
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop and audit after so long; without it, on Ctrl-C.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the live view.")] = False,
    broker: Annotated[str, typer.Option(help="auto, kafka or memory.")] = "auto",
    bootstrap: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="A broker that runs already.")] = None,
) -> None:
    """Broker, topics, simulated machines, worker, live view, and an audit at the end."""
    from service.demo.show import run as show

    raise typer.Exit(show(seconds, json, broker, bootstrap))


@main.command()
def broker(port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 9092) -> None:
    """Run a Kafka node to try things on, without Docker (needs Java and Maven). Its data goes when it ends."""
    from service.commands.broker import broker as serve

    serve(port)


@bench.command("service")
def bench_service(
    json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
    records: Annotated[int, typer.Option(min=1000, help="Input records.")] = 200_000,
    peers: Annotated[bool, typer.Option(help="Run the peers beside it.")] = True,
) -> None:
    """The whole service on a real broker, beside Quix Streams doing the same job."""
    from service.bench.service import main as compare

    raise typer.Exit(compare(json=json, records=records, peers=peers))


@bench.command("recovery")
def bench_recovery(
    json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
    keys: Annotated[int, typer.Option(min=100, help="Keys, each with a stream that fills the network's receptive field.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=0, help="Turns with and without snapshots, to see what they cost; 0: none.")] = 5,
    kills: Annotated[int, typer.Option(min=0, help="Under steady load of up to 1,000 keys, per kind of membership; 0: none.")] = 3,
) -> None:
    """A worker is killed on a real broker: how long until another one predicts, and until all keys have caught up."""
    from service.bench.recovery import main as recover

    raise typer.Exit(recover(json=json, keys=keys, rounds=rounds, kills=kills))


@bench.command("keys")
def bench_keys(
    json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
    keys: Annotated[int, typer.Option(min=100, help="Keys.")] = 1_000_000,
    slots: Annotated[int, typer.Option(min=2, help="Slots that they share.")] = 4096,
    memory_bytes: Annotated[int, typer.Option(min=0, help="Memory for streams without a slot.")] = 64 << 20,
    chunks: Annotated[int, typer.Option(min=2, help="Records of each key.")] = 2,
    chunk: Annotated[int, typer.Option(min=1, help="Samples of each record.")] = 10,
) -> None:
    """Far more keys than slots on a real broker: every prediction is counted, the worker's memory is measured."""
    from service.bench.keys import main as crowd

    raise typer.Exit(crowd(json, keys, slots, memory_bytes, chunks, chunk))


@bench.command("engine")
def bench_engine(
    json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
    peers: Annotated[bool, typer.Option(help="Run the peers that have to be installed beside it.")] = True,
    network: Annotated[list[str] | None, typer.Option(help="Only this network; may be given again.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of torch; 0: one per core.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every contender.")] = 3,
    device: Annotated[str, typer.Option(help="cpu, or cuda or cuda:<number>: with graphs and without, launches counted.")] = "cpu",
) -> None:
    """The engine alone, beside torch-streamer, recomputed windows, a dense cache in lockstep and its bare matrix products."""
    if device != "cpu":
        from service.bench.engine.device import main as on_device

        raise typer.Exit(on_device(device, json=json, rounds=rounds, networks=network or ()))
    from service.bench.engine.run import main as compare

    raise typer.Exit(compare(json=json, rounds=rounds, peers=peers, networks=network or (), threads=threads))
