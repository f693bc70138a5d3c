"""The options of `motet serve`, each with its help, as typer takes them.

Owns: what they are called, their types and bounds, and where `--help` lists them.
Does not know: their defaults and what they become (`serve_command.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_WHAT = "What to serve"
_ADAPTERS = "Adapters"
_HTTP = "Address and keys"
_LIMITS = "Limits"
_POLICY = "Whose turn it is"
_ENGINE = "Engine"

Model = Annotated[
    str | None,
    typer.Argument(
        help="A Hugging Face directory, a hub id, or a .gguf file. Without it: a small "
        "built-in model (SmolLM2-135M), fetched once.",
        rich_help_panel=_WHAT,
    ),
]
ServedModelName = Annotated[
    str | None,
    typer.Option(
        help="Name of the base model in requests.",
        show_default="the last part of MODEL",
        rich_help_panel=_WHAT,
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Longest prompt and answer together.",
        show_default="the model's own",
        metavar="TOKENS",
        rich_help_panel=_WHAT,
    ),
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH",
        help="An adapter to load before requests are taken; may be repeated.",
        rich_help_panel=_ADAPTERS,
    ),
]
AdapterDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Serve every adapter in this directory under its folder's name. Each is loaded "
        "when a request first names it, also if it is added later.",
        rich_help_panel=_ADAPTERS,
    ),
]
WatchAdapterDir = Annotated[
    bool,
    typer.Option(
        "--watch-adapter-dir",
        help="Follow --adapter-dir: a folder that changes becomes a new version, one that "
        "goes is drained. Needs motet[watch].",
        rich_help_panel=_ADAPTERS,
    ),
]
AdapterRoot = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        help="A directory below which POST /v1/load_lora_adapter may read; may be repeated.",
        rich_help_panel=_ADAPTERS,
    ),
]
AllowHubOrg = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORG",
        help="An organisation on the Hugging Face Hub that adapters may be loaded from; may "
        "be repeated.",
        rich_help_panel=_ADAPTERS,
    ),
]
AllowBucket = Annotated[
    list[str] | None,
    typer.Option(
        metavar="s3://BUCKET/PREFIX",
        help="Where in S3 adapters may be loaded from; may be repeated. Needs motet[s3].",
        rich_help_panel=_ADAPTERS,
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where the versions, aliases and pins of adapters are kept over restarts.",
        show_default="$XDG_STATE_HOME/motet/PORT; nothing is kept with --port 0",
        rich_help_panel=_ADAPTERS,
    ),
]
Host = Annotated[
    str,
    typer.Option(
        help="Address to listen on. Anything but a loopback address needs a key.",
        rich_help_panel=_HTTP,
    ),
]
Port = Annotated[
    int,
    typer.Option(
        min=0, max=65535, metavar="PORT", help="0 takes any free port.", rich_help_panel=_HTTP
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="MOTET_API_KEY",
        help="Key for /v1 and /metrics; also for managing adapters if there is no admin key.",
        rich_help_panel=_HTTP,
    ),
]
AdminKey = Annotated[
    str | None,
    typer.Option(
        envvar="MOTET_ADMIN_KEY",
        help="Key for managing adapters and looking into memory, and for all else.",
        rich_help_panel=_HTTP,
    ),
]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="More keys, with tenants, adapters and limits of their own; `motet keys` writes "
        "it. What changes in it counts within a second.",
        rich_help_panel=_HTTP,
    ),
]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A name by which this server may be called (the Host header); may be repeated.",
        show_default="any with keys, localhost without",
        rich_help_panel=_HTTP,
    ),
]
AdminHost = Annotated[
    str | None,
    typer.Option(
        metavar="HOST",
        help="With --admin-port: have /admin and the loading of adapters answer here alone. "
        "Or unix:PATH, a socket that only this user may use.",
        show_default="127.0.0.1",
        rich_help_panel=_HTTP,
    ),
]
AdminPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        metavar="PORT",
        help="See --admin-host.",
        show_default="those routes are with all others",
        rich_help_panel=_HTTP,
    ),
]
MaxQueued = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="SEQUENCES",
        help="Most of one tenant's that wait for their first token, and half of what all may "
        "have; further requests get a 503.",
        show_default="4 x --max-running",
        rich_help_panel=_LIMITS,
    ),
]
MaxQueueTime = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="Longest wait for a first token; after it a request gets a 504.",
        rich_help_panel=_LIMITS,
    ),
]
MaxRequestTime = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="Longest time that a request may take; with the header x-request-timeout one "
        "asks for less.",
        rich_help_panel=_LIMITS,
    ),
]
LenientParams = Annotated[
    bool,
    typer.Option(
        "--lenient-params",
        help="Ignore request parameters that nobody knows, rather than refuse them; the header "
        "x-ignored-params names them. What would change the answer is still refused.",
        rich_help_panel=_HTTP,
    ),
]
DrainTimeout = Annotated[
    int,
    typer.Option(
        min=0,
        help="How long running requests may go on after SIGTERM.",
        metavar="SECONDS",
        rich_help_panel=_HTTP,
    ),
]
SseKeepAlive = Annotated[
    int,
    typer.Option(
        min=0,
        help="How long a stream may be silent before a comment is sent; 0 is for ever.",
        metavar="SECONDS",
        rich_help_panel=_HTTP,
    ),
]
OtlpEndpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="An OpenTelemetry collector, such as http://localhost:4318, that gets a span of "
        "each generation request. Needs the extra motet[otel].",
        rich_help_panel=_HTTP,
    ),
]
Policy = Annotated[
    str,
    typer.Option(
        metavar="NAME[+NAME]",
        help="The order of waiting requests: fcfs, fair or size_aware; on top of it cluster, slo "
        "or both.",
        rich_help_panel=_POLICY,
    ),
]
TtftSlo = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="For the policy slo: within how long a first token should come.",
        rich_help_panel=_POLICY,
    ),
]
ClusterAdapters = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="For the policy cluster: adapters that a batch should have at most.",
        rich_help_panel=_POLICY,
    ),
]
EngineTimeout = Annotated[
    int,
    typer.Option(
        min=1,
        help="An engine that answers nothing for so long is started again. It answers between "
        "steps.",
        metavar="SECONDS",
        rich_help_panel=_ENGINE,
    ),
]
PoolMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory of the page pool for KV cache and adapters, such as 2GiB.",
        show_default="a share of what is free",
        rich_help_panel=_ENGINE,
    ),
]
HostAdapterMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Host memory for copies of adapters, ready to be paged in, such as 8GiB.",
        show_default="a share of what is free",
        rich_help_panel=_ENGINE,
    ),
]
NoPrefixCache = Annotated[
    bool,
    typer.Option(
        "--no-prefix-cache",
        help="Compute every prompt anew, even if it begins like an earlier one.",
        rich_help_panel=_ENGINE,
    ),
]
SharePrefixCache = Annotated[
    bool,
    typer.Option(
        "--share-prefix-cache",
        help="Let requests with different keys share cached prefixes. Answers stay the same, "
        "but their speed tells what others have asked.",
        rich_help_panel=_ENGINE,
    ),
]
NoCudaGraphs = Annotated[
    bool,
    typer.Option(
        "--no-cuda-graphs",
        help="On a GPU, launch every kernel of a decode step by itself: slower, but errors "
        "and profiles name the kernel.",
        rich_help_panel=_ENGINE,
    ),
]
EvictionPolicy = Annotated[
    Literal["saving", "lru"],
    typer.Option(
        help="What makes room in a full pool: what saves least for its pages, or, for "
        "comparison, what was used longest ago.",
        rich_help_panel=_ENGINE,
    ),
]
PageSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="KV cache in a page.",
        metavar="TOKENS",
        show_default="chosen from the model",
        rich_help_panel=_ENGINE,
    ),
]
MaxStepTokens = Annotated[
    int,
    typer.Option(min=1, help="Tokens that one step computes at most.", rich_help_panel=_ENGINE),
]
MaxRunning = Annotated[
    int,
    typer.Option(min=1, metavar="SEQUENCES", help="Most in a batch.", rich_help_panel=_ENGINE),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or float16.",
        show_default="float32 on a CPU, else the model's own",
        rich_help_panel=_ENGINE,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="How a CPU stores the matrices: float32, bfloat16 or int8.",
        show_default="as --dtype",
        rich_help_panel=_ENGINE,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu or cuda.",
        show_default="cuda where there is a GPU",
        rich_help_panel=_ENGINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="CPU threads of the engine.",
        metavar="N",
        show_default="one per usable core",
        rich_help_panel=_ENGINE,
    ),
]
