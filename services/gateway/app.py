"""Wires the gateway: HTTP, WebSocket, SSE and the preview proxy on one port."""

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from functools import partial

import msgspec

from services.gateway import decide, react, state, views
from services.gateway.adapters.access import access_from
from services.gateway.adapters.activity import Activity
from services.gateway.adapters.clients import clients_from
from services.gateway.adapters.context import Context
from services.gateway.adapters.feed import Feed
from services.gateway.adapters.history import History
from services.gateway.adapters.http import Api
from services.gateway.adapters.load import Load
from services.gateway.adapters.private import Passes, PrivateGuard
from services.gateway.adapters.proxy import PreviewProxy, ProxyConfig, Upstreams, runner_options
from services.gateway.adapters.resolver import PreviewResolver, mark_probed
from services.gateway.adapters.serving import HttpServer
from services.gateway.adapters.uploads import Uploads
from services.gateway.adapters.variables import Variables
from services.gateway.adapters.waking import Waker
from services.gateway.config import GatewayConfig
from services.gateway.effects import GatewayEffects
from shared import metrics
from shared.codec import Recorded
from shared.commands import commands_of
from shared.definition import Definition
from shared.errors import DrapeError, Invalid
from shared.events import ClaimEvent, PoolEvent, VmEvent
from shared.measures import Measure
from shared.ports import Bus
from shared.runtime import Runtime
from shared.service import Parts, Wiring
from shared.settings import Common, Settings, from_env

log = logging.getLogger("drape.gateway")

POOL_DEBOUNCE_S = 0.1
POOL_RETRY_S = 2.0


SETTINGS: Settings = {"DRAPE_GATEWAY": GatewayConfig}
"""All that this service reads of the environment and the file, beside what all share."""


def definition(config: GatewayConfig) -> Definition[state.State]:
    """The gateway's pure parts, with its knobs put in."""
    return Definition(
        name="gateway",
        initial=state.initial,
        evolve=state.evolve,
        decide=partial(decide.decide, config=config),
        answer=views.answer,
        react=react.react,
        on_timer=react.on_timer,
        commands=commands_of("gateway"),
        ticks={},
    )


def wiring(config: GatewayConfig, api_tokens: str = "") -> Wiring[state.State]:
    """The gateway as a process runs it."""
    access = access_from(api_tokens, config.host, config.public_hosts)

    async def build(runtime: Runtime[state.State], bus: Bus, settings: Common, stack: AsyncExitStack) -> Parts:
        if not settings.drape_secret:
            raise Invalid(
                "settings_missing", "DRAPE_SECRET is not set.", "`drape up` sets it; all services need the same."
            )
        past = history(runtime, bus, config)
        feed = Feed(lambda: runtime.state, lambda: runtime.seq, config, bus.seals, runtime.clock, past)
        await _listen(runtime, bus, feed, stack)
        activity = Activity()
        stack.enter_context(metrics.live.asking(partial(connections, feed, activity)))
        waker = await _keep_awake(runtime, bus, activity, config, stack)
        proxy_config = ProxyConfig(base_domain=config.preview_domain)
        upstreams = await stack.enter_async_context(Upstreams(proxy_config, settings.drape_secret))
        resolver = PreviewResolver(runtime, bus, feed, waker, settings.drape_secret, config)
        clients = clients_from(config.trusted_proxies)
        passes = Passes(settings.drape_secret, config.private_pass_s, runtime.clock)
        guard = PrivateGuard(lambda: runtime.state, passes)
        proxy = PreviewProxy(
            resolver,
            resolver.woken,
            activity,
            config=proxy_config,
            upstreams=upstreams,
            guard=guard,
            clients=clients,
        )
        context = Context(runtime, bus, feed, access, config)
        variables = Variables(bus.objects, settings.drape_secret)
        load = Load(access, clients, config)
        api = Api(context, Uploads(bus.objects, config), variables, proxy, load, passes)
        application = api.application()
        application.on_response_prepare.append(mark_probed)
        server = HttpServer(application, proxy, feed, config, **runner_options(proxy_config))
        stack.push_async_callback(server.close)
        await server.open()
        return Parts(GatewayEffects(bus, runtime.send, lambda: runtime.state).perform, {}, server.drain)

    return Wiring(definition(config), build)


async def connections(feed: Feed, activity: Activity) -> list[Measure]:
    """What clients hold open here."""
    count = {**feed.connections(), "preview": activity.total}
    return [Measure("drape.gateway.connections", number, {"drape.kind": kind}) for kind, number in count.items()]


def history(runtime: Runtime[state.State], bus: Bus, config: GatewayConfig) -> History:
    """What the feed does not remember, as the log has it."""
    readers_max = config.history_readers_max
    return History(bus.log, lambda: runtime.seq, runtime.catch_up, config.recent_messages_max, readers_max)


async def _listen(runtime: Runtime[state.State], bus: Bus, feed: Feed, stack: AsyncExitStack) -> None:
    """Everything that reaches clients: facts, ticks, output, and the pool's numbers when they may have changed."""
    pool_changed = asyncio.Event()
    pool_changed.set()

    def on_folded(recorded: Recorded) -> None:
        feed.on_event(recorded)
        if isinstance(recorded.event, VmEvent | ClaimEvent | PoolEvent):
            pool_changed.set()

    runtime.on_folded.append(on_folded)
    for subscription in (
        await bus.progress.subscribe(feed.on_progress),
        await bus.preview_logs.subscribe(feed.on_logs),
    ):
        stack.push_async_callback(subscription.stop)
    task = asyncio.create_task(_watch_pool(bus, feed, pool_changed), name="gateway-pool")
    stack.push_async_callback(_end, task)


async def _keep_awake(
    runtime: Runtime[state.State], bus: Bus, activity: Activity, config: GatewayConfig, stack: AsyncExitStack
) -> Waker:
    """What is in use here is told, and woken where it sleeps."""
    waker = Waker(runtime, runtime.send, activity, config)
    runtime.on_folded.append(waker.on_folded)
    stack.push_async_callback(waker.close)
    task = asyncio.create_task(activity.tell(bus.activity, config.activity_period_s), name="gateway-activity")
    stack.push_async_callback(_end, task)
    return waker


async def _watch_pool(bus: Bus, feed: Feed, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        await asyncio.sleep(POOL_DEBOUNCE_S)
        changed.clear()
        try:
            feed.on_pool(msgspec.json.decode(await bus.commands.query("pool", "summary")))
        except DrapeError as error:
            log.info("pool_unknown", extra={"error": error.message})
            await asyncio.sleep(POOL_RETRY_S)
            changed.set()


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def from_environment() -> Wiring[state.State]:
    """The gateway with its knobs from the environment."""
    config = from_env(GatewayConfig, "DRAPE_GATEWAY")
    return wiring(config, config.api_tokens)
