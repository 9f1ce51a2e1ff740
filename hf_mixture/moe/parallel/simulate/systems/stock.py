"""Expert parallelism as it is in stock: every expert on one device, for good."""

from __future__ import annotations

from hf_mixture.moe.parallel.placement import Counts
from hf_mixture.moe.parallel.simulate.slots import hold_owned
from hf_mixture.moe.parallel.simulate.systems.base import LayerPlan, System


class ExpertParallel(System):
    """Neighbouring experts on each device; tokens travel, experts do not."""

    def plan(self, tokens: Counts) -> list[LayerPlan]:
        """Nothing changes."""
        return [self.quiet_plan(hold_owned(owners, self.devices)) for owners in self.stock_owners(tokens)]
