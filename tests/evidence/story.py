"""The log of a run, as it grows."""

from collections import Counter

from shared.codec import Recorded
from shared.events import AlertCleared, AlertRaised
from shared.ports import Bus, Subscription
from tests.chaos.pacing import until


class Story:
    """Every event so far. `lost`: why the log is no longer followed."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.events: list[Recorded] = []
        self.lost: list[BaseException] = []
        self._subscription: Subscription | None = None

    async def begin(self) -> None:
        """Follow the log from its first event."""
        self._subscription = await self.bus.log.follow(0, self.events.append, self.lost.append)

    async def end(self) -> None:
        if self._subscription is not None:
            await self._subscription.stop()

    def alerts(self, kind: type[AlertRaised] | type[AlertCleared]) -> Counter[str]:
        """How often each alert was raised, or cleared."""
        return Counter(each.event.alert for each in self.events if isinstance(each.event, kind))

    async def alerted(self, kind: type[AlertRaised] | type[AlertCleared], alert: str, within_s: float) -> bool:
        """Whether the alert has been raised, or cleared, within the time."""

        async def there() -> bool:
            return self.alerts(kind)[alert] > 0

        return await until(there, within_s)
