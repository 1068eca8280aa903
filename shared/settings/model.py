"""The resolved configuration of a run."""

from pydantic import BaseModel, ConfigDict, Field

from shared.settings.broker import BrokerSettings
from shared.settings.dispatch import DispatchSettings
from shared.settings.generation import GenerationSettings
from shared.settings.input import InputSettings
from shared.settings.publish import PublishSettings
from shared.settings.scoring import ScoringSettings
from shared.settings.search import SearchSettings


class Settings(BaseModel):
    """Every setting there is. Frozen; passed on explicitly, never global."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: SearchSettings = Field(default_factory=SearchSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    scoring: ScoringSettings = Field(default_factory=ScoringSettings)
    dispatch: DispatchSettings = Field(default_factory=DispatchSettings)
    input: InputSettings = Field(default_factory=InputSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
