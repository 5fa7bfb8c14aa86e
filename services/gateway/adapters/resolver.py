"""Tells the preview proxy where a request goes, or why it can't go anywhere yet."""

from aiohttp import web

from services.gateway.adapters.feed import Feed
from services.gateway.adapters.output import tail_of
from services.gateway.adapters.preview_target import Holding, Through, Upstream
from services.gateway.adapters.terminal import plain
from services.gateway.adapters.waking import Waker
from services.gateway.config import GatewayConfig
from services.gateway.state import SERVED, Failure, Preview, State
from services.gateway.views import message_of, percent_of
from shared.errors import Unavailable
from shared.ids import PreviewId
from shared.ports import Bus
from shared.runtime import Runtime
from shared.secrets import matches, probe_token, probed_token

PROBE_HEADER = "X-Drape-Probe"
PROBED_HEADER = "X-Drape-Probed"
MIN_SEQ_HEADER = "X-Drape-Min-Seq"
PROBED = web.RequestKey("drape.probed", str)


class PreviewResolver:
    """Browsers reach a preview once it is ready; the orchestrator's probe, with its token, as soon as its address is
    known: readiness is confirmed on the very path that browsers use."""

    def __init__(
        self, runtime: Runtime[State], bus: Bus, feed: Feed, waker: Waker, secret: str, config: GatewayConfig
    ) -> None:
        self._runtime = runtime
        self._bus = bus
        self._feed = feed
        self._waker = waker
        self._secret = secret
        self._config = config

    async def __call__(self, preview_id: PreviewId, request: web.Request, /) -> Upstream | Holding:
        probing = await self._is_probe(preview_id, request)
        preview = self._runtime.state.previews.get(preview_id)
        if preview is None:
            return Holding("unknown", preview_id)
        if preview.status in SERVED or (probing and preview.status == "waiting"):
            if probing:
                request[PROBED] = probed_token(self._secret, preview_id)
            return Upstream(preview_id, preview.host, preview.port, str(preview.attempt), through_of(preview))
        return await self._holding(await self._bus.seals.opened(preview))

    async def woken(self, preview_id: PreviewId, request: web.Request, /) -> Upstream | Holding:
        """Where the request goes once the preview is awake. The platform's own look at it wakes nothing."""
        if not await self._is_probe(preview_id, request):
            await self._waker.wake(preview_id)
        return await self(preview_id, request)

    async def _is_probe(self, preview_id: PreviewId, request: web.Request) -> bool:
        given = request.headers.get(PROBE_HEADER, "")
        if not given or not matches(given, probe_token(self._secret, preview_id)):
            return False
        min_seq = request.headers.get(MIN_SEQ_HEADER, "0")
        if min_seq.isdecimal():
            await self._runtime.until(int(min_seq), timeout_s=self._config.ready_wait_s)
        return True

    async def _holding(self, preview: Preview) -> Holding:
        told = self._feed.progress.get(preview.preview_id)
        if preview.status == "stopped":
            return Holding("stopped", preview.preview_id)
        if preview.status == "suspended":
            return Holding("suspended", preview.preview_id, percent=percent_of(preview, None))
        if preview.status != "failed":
            return Holding(
                "starting",
                preview.preview_id,
                message=message_of(preview, told),
                percent=percent_of(preview, told),
                step=told.step if told is not None else preview.status,
            )
        return await self._failed(preview, preview.error or Failure(code="", message="", hint="", step=""))

    async def _failed(self, preview: Preview, error: Failure) -> Holding:
        try:
            tail, evidence = await tail_of(self._bus.preview_logs, preview, self._config.log_tail_lines)
        except Unavailable:
            tail, evidence = [], []  # the reason alone is better than no page
        return Holding(
            "failed",
            preview.preview_id,
            code=error.code,
            message=error.message,
            hint=error.hint,
            log_tail=tuple(plain(line.text) for line in tail),
            step=error.step,
            evidence=tuple(line.text for line in evidence),
        )


def through_of(preview: Preview) -> Through | None:
    """The agent to go through; None where the VM shares our network: its dev server is dialled as it listens."""
    agent = preview.agent
    if agent is None or not agent.reach.tunnel:
        return None
    return Through(preview.vm_id, agent.host, agent.port, agent.lease, agent.reach)


async def mark_probed(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: an answer that a probe got from the dev server carries the proof of it; browsers never see it."""
    proof = request.get(PROBED)
    if proof is not None:
        response.headers[PROBED_HEADER] = proof
