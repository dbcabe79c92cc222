"""A labelled world for the signals of fraud: the days of a charity, made from a seed, some of them with an attack.

What happens is known, and so is its cause: ordinary donors, some of whom mistype their card again and again; households
that share an e-mail; the rush after a television appeal; people who test stolen cards, fast and slowly; people who pay
with one stolen card after the other; and people who give in order to be refunded.
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from daemon.ledger.events.event_facts import Attempt
from daemon.reports.attempts import AttemptCounter, Kind
from daemon.reports.fraud import HOUR_S, AttemptsRow, BurstRow, SoonRefundRow
from daemon.reports.fraud_thresholds import Thresholds

DAY_S = 24 * HOUR_S
BEGIN = 1_760_000_400  # of each day, in Unix seconds, at the beginning of an hour
HOME, NEIGHBOURS, RARE = "DE", ("AT", "CH", "FR", "NL"), ("AU", "BR", "CA", "IN", "JP", "MX", "NG", "PE", "VN", "ZA")


@dataclass(frozen=True)
class Made:
    """One attempt to pay, and when what it paid was refunded."""

    at: int
    ticket: str
    hash: str
    country: str
    failed: bool
    refunded_at: int | None = None


@dataclass
class Attack:
    """One attack, with everything by which a signal can name it."""

    kind: str
    tickets: set[str] = field(default_factory=set)
    hashes: set[str] = field(default_factory=set)
    countries: set[str] = field(default_factory=set)


@dataclass
class Day:
    """Everything that was tried on one day, in the order of time."""

    made: list[Made]
    attacks: list[Attack]

    def attempts(self, limits: Thresholds) -> list[AttemptsRow]:
        """What the table of attempts contains at the end of the day."""
        now = 0
        counter = AttemptCounter(lambda: now)
        taken = []
        for made in self.made:
            now = made.at
            counter.count(Attempt(made.failed, "", made.ticket, made.country, made.hash))
            taken += counter.take()
        minutes: dict[tuple[Kind, str, int], Counter[str]] = defaultdict(Counter)
        failed_hashes = set()
        for count in taken:
            if count.kind is Kind.HASH and count.failures:
                failed_hashes.add(count.subject)
            if count.kind is Kind.HASH and count.subject not in failed_hashes:
                continue  # as in the table
            minutes[count.kind, count.subject, count.minute].update(tried=count.attempts, failed=count.failures)
        hours: dict[tuple[Kind, str, int], Counter[str]] = defaultdict(Counter)
        for (kind, subject, minute), tried in minutes.items():
            hour = hours[kind, subject, minute // HOUR_S * HOUR_S]
            hour.update(tried)
            if tried["failed"] * 100 >= tried["tried"] * limits.minute_percent:
                hour["worst"] = max(hour["worst"], tried["failed"])
        return [AttemptsRow(*key, hour["tried"], hour["failed"], hour["worst"]) for key, hour in hours.items()]

    def bursts(self) -> list[BurstRow]:
        """The payments of each e-mail hash."""
        paid: dict[str, list[Made]] = defaultdict(list)
        for made in self.made:
            if not made.failed:
                paid[made.hash].append(made)
        return [BurstRow(hash_, [m.at for m in all_], sorted({m.ticket for m in all_})) for hash_, all_ in paid.items()]

    def soon_refunds(self, limits: Thresholds) -> list[SoonRefundRow]:
        """The donations that were refunded soon after they were paid."""
        payments = Counter(made.ticket for made in self.made if not made.failed)
        return [
            SoonRefundRow(f"pi_{n}", made.ticket, made.hash, made.at, made.refunded_at, payments[made.ticket])
            for n, made in enumerate(self.made)
            if made.refunded_at is not None and made.refunded_at - made.at <= limits.soon_refund_hours * HOUR_S
        ]


class _Maker:
    """Makes one day."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.tickets = [f"story-{n}" for n in range(rng.randint(3, 20))]
        self.made: list[Made] = []
        self.attacks: list[Attack] = []

    def day(self) -> Day:
        """Ordinary donors on each day, an appeal on one of six, an attack on one of three."""
        self.donors(self.rng.randint(20, 600), begin=0, length_s=DAY_S, tickets=self.tickets, failing=0.06)
        if self.rng.random() < 1 / 6:
            self.appeal()
        if self.rng.random() < 1 / 3:
            attack: Callable[[], None] = self.rng.choice([self.fast, self.slow, self.cashing, self.refund_fraud])
            attack()
        return Day(sorted(self.made, key=lambda made: made.at), self.attacks)

    def donors(self, number: int, *, begin: int, length_s: int, tickets: list[str], failing: float) -> None:
        for _ in range(number):
            at = BEGIN + begin + self.rng.randrange(length_s)
            hash_, country = self.hash(), self.country()
            # A household gives with one e-mail, one after the other.
            for _ in range(self.rng.choices([1, 2, 3, 4], [95, 3, 1.5, 0.5])[0]):
                at = self.donor(at, self.rng.choice(tickets), hash_, country, failing)

    def donor(self, at: int, ticket: str, hash_: str, country: str, failing: float) -> int:
        """Some fail at first, hardly any of them three times, and most of them try until it works."""
        failures = self.rng.choices([1, 2, 3, 4], [88, 11, 0.8, 0.2])[0] if self.rng.random() < failing else 0
        for _ in range(failures):
            self.add(at, ticket, hash_, country, failed=True)
            at += self.rng.randint(20, 300)
        if not failures or self.rng.random() < 0.7:
            self.add(at, ticket, hash_, country, failed=False, refunded_at=self.ordinary_refund(at))
        return at + self.rng.randint(60, 1200)

    def ordinary_refund(self, at: int) -> int | None:
        """Of a hundred donations one is refunded within hours, because of a mistake; some are days later."""
        draw = self.rng.random()
        if draw < 0.01:
            return at + self.rng.randint(300, DAY_S)
        return at + self.rng.randint(2, 30) * DAY_S if draw < 0.02 else None

    def appeal(self) -> None:
        """After a television appeal thousands come within half an hour; banks and donors make more mistakes then."""
        begin = self.rng.randrange(DAY_S - 2 * HOUR_S)
        number, failing = self.rng.randint(800, 4000), self.rng.uniform(0.08, 0.16)
        self.donors(number, begin=begin, length_s=1800, tickets=[self.rng.choice(self.tickets)], failing=failing)

    def fast(self) -> None:
        """A program tests hundreds of stolen cards in minutes."""
        self.test_cards("fast", number=self.rng.randint(150, 3000), length_s=self.rng.randint(300, 3600))

    def slow(self) -> None:
        """A program tests stolen cards so slowly that no minute stands out, some on all tickets in turn."""
        number, length_s = self.rng.randint(30, 150), self.rng.randint(4, 20) * HOUR_S
        tickets = self.tickets if self.rng.random() < 0.25 else None
        self.test_cards("slow", number=number, length_s=length_s, tickets=tickets)

    def test_cards(self, kind: str, *, number: int, length_s: int, tickets: Sequence[str] | None = None) -> None:
        tickets = tickets or [self.rng.choice(self.tickets)]
        attack = Attack(kind, set(tickets))
        begin = BEGIN + self.rng.randrange(DAY_S - length_s)
        pool = [self.hash() for _ in range(self.rng.choice([4, 12, number]))]
        countries = [self.rng.choice(RARE)] if self.rng.random() < 0.5 else [HOME, *NEIGHBOURS]
        failing = self.rng.uniform(0.85, 0.99)
        for _ in range(number):
            hash_, country = self.rng.choice(pool), self.rng.choice(countries)
            failed = self.rng.random() < failing
            at = begin + self.rng.randrange(length_s)
            self.add(at, self.rng.choice(tickets), hash_, country, failed=failed)
            attack.hashes.add(hash_)
            attack.countries.add(country)
        self.attacks.append(attack)

    def cashing(self) -> None:
        """One e-mail pays with one stolen card after the other."""
        hash_ = self.hash()
        ticket = self.rng.choice(self.tickets)
        attack = Attack("cashing", {ticket}, {hash_})
        begin = BEGIN + self.rng.randrange(DAY_S - HOUR_S)
        for _ in range(self.rng.randint(7, 30)):
            at = begin + self.rng.randrange(2400)
            self.add(at, ticket, hash_, HOME, failed=self.rng.random() < 0.2)
        self.attacks.append(attack)

    def refund_fraud(self) -> None:
        """One person gives several times, with one e-mail or several, and asks for the money soon after."""
        ticket = f"fraud-{self.rng.randrange(10**6)}"
        pool = [self.hash() for _ in range(self.rng.choice([1, 2, 8]))]
        attack = Attack("refunds", {ticket}, set(pool))
        for _ in range(self.rng.randint(5, 12)):
            at = BEGIN + self.rng.randrange(DAY_S // 2)
            refunded_at = at + self.rng.randint(600, 12 * HOUR_S)
            self.add(at, ticket, self.rng.choice(pool), HOME, failed=False, refunded_at=refunded_at)
        self.attacks.append(attack)

    def add(
        self, at: int, ticket: str, hash_: str, country: str, *, failed: bool, refunded_at: int | None = None
    ) -> None:
        self.made.append(Made(at, ticket, hash_, country, failed, refunded_at))

    def hash(self) -> str:
        return hashlib.sha256(self.rng.randbytes(8)).hexdigest()

    def country(self) -> str:
        countries = [HOME, *NEIGHBOURS, *RARE]
        return self.rng.choices(countries, [85, *[3] * len(NEIGHBOURS), *[0.3] * len(RARE)])[0]


def days(seed: int, number: int) -> Iterator[Day]:
    """So many days, each of another charity; the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(number):
        yield _Maker(rng).day()
