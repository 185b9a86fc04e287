"""The consumer group of deployers as a model."""

from __future__ import annotations

from typing import Final

from tidegate.simulation.bus import Bus
from tidegate.simulation.deployer import Deployer
from tidegate.simulation.proxy import Proxy, Session
from tidegate.simulation.world import World

SESSION_S: Final = 6.0


class Group:
    """Who owns the partitions: one deployer has them all; another takes over when it is not heard of for a session."""

    def __init__(self, world: World, bus: Bus, deployers: list[Deployer]) -> None:
        self.world = world
        self.bus = bus
        self.deployers = deployers
        self.owner: Deployer | None = None
        self._life = 0
        self._heard_s = world.now_s
        self._joined: list[tuple[Deployer, int]] = []
        for deployer in deployers:
            deployer.on_joined = self._join
        world.later(1.0, self._check)

    def connect(self, proxy: Proxy) -> Session | None:
        """Lead a proxy to the deployer that answers at the address: the owner."""
        owner = self.owner
        if owner is None or not owner.is_alive or owner.incarnation != self._life:
            return None
        return owner.connect(proxy)

    def disconnect(self, session: Session) -> None:
        """Tell the deployer that a stream has ended, if it lives."""
        if not session.is_dead and isinstance(session.owner, Deployer):
            session.owner.fleet.disconnect(session)

    def hand_over(self) -> bool:
        """Move the partitions to another deployer that waits, in order; False if there is none."""
        owner = self.owner
        others = [one for one, life in self._joined if one is not owner and one.incarnation == life and one.is_alive]
        if owner is None or not others or owner.is_paused or owner.is_cut or others[0].is_cut or others[0].is_paused:
            return False
        self.world.count("deployer: handed over")
        if owner.is_alive and owner.incarnation == self._life:
            owner.revoke()
        self._give(others[0])
        return True

    def _join(self, deployer: Deployer) -> None:
        self._joined = [(one, life) for one, life in self._joined if one is not deployer]
        self._joined.append((deployer, deployer.incarnation))

    def _check(self) -> None:
        self.world.later(0.5, self._check)
        if self.world.now_s < self.bus.down_until_s:
            self._heard_s = self.world.now_s
            return
        owner = self.owner
        is_same = owner is not None and owner.is_alive and owner.incarnation == self._life
        if owner is not None and is_same and self.bus.is_reachable(owner) and not owner.is_paused:
            self._heard_s = self.world.now_s
            return
        if owner is not None and self.world.now_s - self._heard_s < SESSION_S:
            return
        for deployer, life in self._joined:
            if deployer.is_alive and deployer.incarnation == life and not deployer.is_paused and not deployer.is_cut:
                if is_same and owner is not deployer:
                    self.world.count("deployer: two at the same time")
                self._give(deployer)
                return

    def _give(self, deployer: Deployer) -> None:
        self.owner = deployer
        self._life = deployer.incarnation
        self._heard_s = self.world.now_s
        for one in self.deployers:
            one.fleet.supersede(None if one is deployer else self.world.now_s)
        for partition in range(self.bus.partitions):
            deployer.assign(partition)
