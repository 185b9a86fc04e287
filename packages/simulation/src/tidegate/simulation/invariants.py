"""The invariants by name: whoever raises, plants or tests one means the same."""

from __future__ import annotations

from enum import StrEnum


class Invariant(StrEnum):
    """What must always hold; the values are what people read."""

    # Numbers, artifacts, decisions.
    NUMBERS_ARE_UNIQUE = "version numbers are unique"
    ARTIFACTS_ARE_IMMUTABLE = "artifacts are immutable"
    DECIDED_AGAIN = "any decision can be made again"
    # The deployer's transactions.
    ONE_OWNER_DECIDES = "one owner decides"
    STATE_IS_COMMITTED = "a decision's state is committed with it"
    INPUTS_ARE_DECIDED_ONCE = "each input is decided once"
    ONLY_THE_COMMITTED_HAS_AN_EFFECT = "only what is committed has an effect"
    # Routes.
    WEIGHTS_SUM_UP = "weights sum to the total"
    ROUTES_ARE_LEGAL = "every committed route is legal"
    ROUTES_GO_FORWARD = "routes only go forward"
    ONLY_BLESSED_VERSIONS = "a route names only blessed versions"
    ONLY_READY_VERSIONS = "a route names only ready versions"
    RETIRED_GETS_NOTHING = "what is retired gets no request once the proxies know"
    ALL_LEASED_PROXIES_HAVE_IT = "a route counts when all leased proxies have it"
    # Steps and endings.
    ENDS_ONCE = "a rollout ends once"
    NOTHING_WITHOUT_APPROVAL = "nothing goes live without the approval that it wants"
    STEPS_ARE_EARNED = "each step is earned by evidence of its route"
    STEPS_WAIT_FOR_PROXIES = "each step waits for the proxies"
    STEPS_ARE_BAKED = "each step is baked"
    NO_BAD_STEP = "no bad candidate earns a step"
    SETTLES_FIRST = "nothing is promoted before its rollback window closes"
    NO_LOWER_VERSION = "lower versions never start by themselves"
    OBSERVE_NEVER_SHIFTS = "observe never shifts"
    SILENCE_IS_NOT_NO_TRAFFIC = "a silent monitor is not no traffic"
    WAITING_IS_NO_END = "a rollout that waits for a server is not ended for it"
    SILENCE_ENDS_IT = "a silence beyond the limit ends the rollout"
    # Breaches.
    MUCH_WORSE_BREACHES = "a candidate that is much worse breaches"
    BREACH_SENDS_BACK = "a breach sends all traffic back in the same decision"
    BREACH_STOPS = "a breach stops the rollout"
    BREACH_COUNTS_ONCE = "a breach counts once"
    NO_MORE_AFTER_A_BREACH = "after a breach nothing gives the arm more traffic"
    # Commands.
    COMMANDS_WORK = "a command does what it promises"
    COMMANDS_COUNT_ONCE = "a command counts once"
    # Evidence.
    COUNTED_BY_ASSIGNMENT = "evidence is counted by assignment"
    BATCHES_COUNT_ONCE = "each batch counts once"
    NOTHING_IS_UNKNOWN = "no evidence is unknown"
    # Requests.
    NO_REQUEST_FAILS = "no request fails by a shift, a rollback, a removal or the death of a Tidegate process"
    ARMS_ARE_ANSWERED = "every arm in force has a server that answers"
    # Everything.
    COMES_TO_REST = "the system comes to rest"
    NO_ERROR = "no code ends with an error"
