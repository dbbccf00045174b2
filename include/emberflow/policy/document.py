"""Policies: every number that a rule uses, in one versioned document.

A policy is a YAML file (``policy/shipped/standard.yaml`` ships as the default) that becomes a row of
``ops.policies`` when it comes into force (`policy.versions`); a slot refers to the row under which it was planned. Each
section stands beside the module that applies it, so a number has one home and one explanation; those of the queue
manager, which imports this package, are in `policy.queue`. Reading a policy loads neither pandas nor a mail client.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from emberflow import yaml_files
from emberflow.bots.policy import ActionPolicy, BotPolicy, PlacementPolicy, ReplyPolicy, Rests, SelectionPolicy
from emberflow.delivery.breakers import BreakerPolicy
from emberflow.delivery.caps import CapPolicy
from emberflow.delivery.connections import ConnectionPolicy
from emberflow.delivery.corroboration import RefusalPolicy
from emberflow.delivery.reply_codes import SmtpReplyPolicy
from emberflow.errors import ConfigurationError, UnknownProfileError
from emberflow.policy.domain_checks import DomainCheckPolicy
from emberflow.policy.profiles import SECTIONS, Numbers, Profile, complete, normal
from emberflow.policy.queue import DispatchPolicy, InboxPolicy, PlacementTestPolicy, QueuePolicy, ReconcilePolicy
from emberflow.senders.policy import LinearRamp, PacingPolicy, QuotaPolicy, RampPolicy

_SHIPPED = Path(__file__).resolve().parent / "shipped"


class ReputationPolicy(BaseModel):
    """Which scoring model is in force (a version in dbt's seeds) and how often the marts are rebuilt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(default="first-1", description="scoring model, a version in the seeds of dbt")
    refresh_s: int = Field(default=3600, ge=0, description="how often the marts are rebuilt")


class Policy(BaseModel):
    """The whole document. ``label`` is shown wherever numbers made under this policy are shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="what this version is called")
    label: str = Field(description="shown wherever numbers made under this policy are shown")
    ramp: RampPolicy = LinearRamp()
    quota: QuotaPolicy = QuotaPolicy()
    pacing: PacingPolicy = PacingPolicy()
    bots: BotPolicy = BotPolicy()
    selection: SelectionPolicy = SelectionPolicy()
    placement: PlacementPolicy = PlacementPolicy()
    replies: ReplyPolicy = ReplyPolicy()
    actions: ActionPolicy = ActionPolicy()
    queue: QueuePolicy = QueuePolicy()
    caps: CapPolicy = CapPolicy()
    dispatch: DispatchPolicy = DispatchPolicy()
    breakers: BreakerPolicy = BreakerPolicy()
    connections: ConnectionPolicy = ConnectionPolicy()
    smtp_replies: SmtpReplyPolicy = Field(default_factory=SmtpReplyPolicy)
    refusals: RefusalPolicy = RefusalPolicy()
    inbox: InboxPolicy = InboxPolicy()
    placement_tests: PlacementTestPolicy = PlacementTestPolicy()
    reconcile: ReconcilePolicy = ReconcilePolicy()
    reputation: ReputationPolicy = ReputationPolicy()
    domain_checks: DomainCheckPolicy = DomainCheckPolicy()
    profiles: Mapping[str, Numbers] = Field(
        default_factory=dict,
        description="named numbers for single mailboxes (`senders set ADDRESS --profile NAME`, `bots set`): sections "
        "ramp, quota, pacing, bots, replies, actions; what a profile leaves out is as above",
    )

    @field_validator("profiles")
    @classmethod
    def _profiles_are_complete(cls, stated: Mapping[str, Numbers], info: ValidationInfo) -> Mapping[str, Any]:
        own = {name: info.data[name] for name in SECTIONS if name in info.data}
        if len(own) < len(SECTIONS):  # a section of the document is wrong, which is said of it
            return stated
        return normal(stated, complete(Profile(**own), stated))

    @cached_property
    def numbers_of(self) -> Mapping[str | None, Profile]:
        """All numbers by profile: None, the document's own, comes first, then the profiles by name."""
        own = Profile(**{name: getattr(self, name) for name in SECTIONS})
        named = complete(own, self.profiles)
        return {None: own, **{name: named[name] for name in sorted(named)}}

    @cached_property
    def rests(self) -> Rests:
        """How long a bot of each profile rests after a mail."""
        return Rests(
            self.bots.cooldown_s,
            {name: one.bots.cooldown_s for name, one in self.numbers_of.items() if name is not None},
        )

    @property
    def profile_names(self) -> list[str]:
        """The profiles that a mailbox may name, in order."""
        return sorted(self.profiles)

    def profile(self, name: str | None) -> Profile:
        """Return all numbers of a mailbox that names this profile, or none.

        Raises:
            UnknownProfileError: this document has no such profile.
        """
        if name not in self.numbers_of:
            known = ", ".join(self.profile_names) or "none at all"
            raise UnknownProfileError(f"the policy {self.name} has no profile {name!r}; it has {known}")
        return self.numbers_of[name]


def shipped(name: str) -> Policy:
    """Return the policy that ships under ``name`` (``standard`` or ``demo``)."""
    return load(_SHIPPED / f"{name}.yaml")


def load(file: Path) -> Policy:
    """Read and validate a policy file.

    Raises:
        ConfigurationError: the file is missing, is not YAML, or a value is unknown or out of range.
    """
    try:
        document = yaml_files.read(file)
    except yaml_files.UnreadableYamlError as error:
        if isinstance(error.__cause__, OSError):
            raise ConfigurationError(f"cannot read the policy {file}: {error.__cause__.strerror}") from error
        raise ConfigurationError(f"{file} is not YAML that can be taken: {error}") from error
    if document.repeated:
        listed = "\n".join(f"  line {line}: {key}: is there more than once" for line, key in document.repeated)
        raise ConfigurationError(f"{file} is not a valid policy:\n{listed}")
    try:
        return Policy.model_validate(document.content, context={"folder": file.parent})
    except ValidationError as error:
        problems = "\n".join(
            f"  line {document.line(problem['loc'])}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ConfigurationError(f"{file} is not a valid policy:\n{problems}") from error
