"""How many requests a second: token buckets, in bounded memory. They are this replica's own."""

from collections import OrderedDict
from collections.abc import Callable, Hashable


class Buckets:
    """One bucket a key: `burst` requests at once, then `rate_per_s`. A rate of 0: no limit.

    Above `keys_max` the bucket that was used longest ago is forgotten, which is as if it were full again.
    """

    def __init__(self, rate_per_s: float, burst: int, keys_max: int, clock: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(max(1, burst))
        self._keys_max = keys_max
        self._clock = clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """By key: what was left, and when."""

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: Hashable) -> float:
        """Take one; 0.0 where there was one, else the seconds until there is."""
        if self._rate_per_s <= 0:
            return 0.0
        now = self._clock()
        left, since = self._levels.pop(key, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - since) * self._rate_per_s)
        granted = left >= 1.0
        self._levels[key] = (left - 1.0 if granted else left, now)
        if len(self._levels) > self._keys_max:
            self._levels.popitem(last=False)
        return 0.0 if granted else (1.0 - left) / self._rate_per_s
