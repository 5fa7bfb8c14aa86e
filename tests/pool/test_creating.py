"""VMs that are wanted are created one after the other."""

from services.pool.config import PoolConfig
from services.pool.decide import decide
from shared.commands import MaintainPool
from tests.builders import vm_creation_started
from tests.pool.test_decide import pool
from tests.spec import AT


def test_one_is_created_at_a_time() -> None:
    """Appends of one decision may be stored in any order: whoever saw the third alone would count on from there, and the
    first two would come beyond the maximum."""
    assert decide(pool().state, MaintainPool(id="m", at=AT), PoolConfig()) == [vm_creation_started(1)]
