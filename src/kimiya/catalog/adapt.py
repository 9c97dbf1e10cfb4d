"""A request made fit for one model at one host; whatever was changed is said.

``adapt`` is a list of steps over one ``Draft``. The order matters where one step reads what another
wrote, and nowhere else:

* refusals come first, so that nothing is changed in vain;
* the caller's wish to think is read before foreign fields are dropped, for it may be one of them;
* the mode is settled before the sampling that depends on it;
* messages are merged last, when no step can make new neighbours.

Invariants: visible content is never dropped, it is kept, moved or refused; a request that needs no
change comes back as the same object; adapting an adapted request changes nothing more, but for a
temperature the host multiplies.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from msgspec import Struct

from kimiya.catalog.adaptation.capability import (
    lower_format,
    lower_output_limit,
    refuse_media,
    refuse_tools,
)
from kimiya.catalog.adaptation.draft import Draft
from kimiya.catalog.adaptation.foreign import (
    drop_foreign_fields,
    drop_foreign_tools,
    refuse_foreign_content,
)
from kimiya.catalog.adaptation.history import (
    drop_blanks,
    drop_reasoning,
    merge_neighbours,
    move_media,
    rename_developer,
    turn_late_system,
)
from kimiya.catalog.adaptation.limits import (
    drop_image_detail,
    drop_names,
    fit_metadata,
    lift_result_marks,
    settle_choice_words,
)
from kimiya.catalog.adaptation.marks import fit_call_ids, settle_marks
from kimiya.catalog.adaptation.mode import choose_mode, lift_switch
from kimiya.catalog.adaptation.sampling import adapt_sampling
from kimiya.catalog.adaptation.schema_subset import fit_schemas
from kimiya.catalog.adaptation.switch import write_switch
from kimiya.catalog.card import ModelCard
from kimiya.core.exchange import Adjustment, Request

Step: TypeAlias = Callable[[Draft], None]

STEPS: tuple[Step, ...] = (
    refuse_media,
    refuse_foreign_content,
    drop_foreign_tools,
    refuse_tools,
    fit_schemas,
    lift_switch,
    drop_foreign_fields,
    drop_names,
    drop_image_detail,
    fit_metadata,
    lower_output_limit,
    lower_format,
    settle_choice_words,
    choose_mode,
    write_switch,
    adapt_sampling,
    turn_late_system,
    rename_developer,
    drop_reasoning,
    move_media,
    drop_blanks,
    lift_result_marks,
    settle_marks,
    fit_call_ids,
    merge_neighbours,
)


class Adapted(Struct, frozen=True):
    """A request as it will be sent, and every change on the way to it."""

    request: Request
    adjustments: tuple[Adjustment, ...] = ()
    call_ids: Mapping[str, str] = {}
    """Call ids as sent to the caller's own, where the host's pattern made them differ."""


def adapt(request: Request, card: ModelCard, dialect: str | None) -> Adapted:
    """Make ``request`` fit ``card``, to be written in ``dialect``.

    Args:
        request: As the caller meant it.
        card: The model at the host it goes to.
        dialect: Name of the dialect it will be written in; ``None`` where no wire is involved.

    Raises:
        InvalidRequest: The model cannot be given this content; nothing was sent.
    """
    draft = Draft(request, card, dialect)
    for step in STEPS:
        step(draft)
    return Adapted(draft.request, tuple(draft.adjustments), draft.call_ids)
