"""The use of models, noted: from the hot path into a spool on disk, from there in batches into the database.

`records` says what is noted, `frames` how it stands on disk, `spool` writes it, `reader` reads it again,
`shipper` brings it to the database, and `ledger` is what the gateway sees of all of this. docs/accounting.md
tells what is guaranteed, and what is not.
"""

from citadel_llm.gateway.accounting.ledger import Ledger
from citadel_llm.gateway.accounting.metrics import AccountingMetrics
from citadel_llm.gateway.accounting.records import Begun, Ended

__all__ = ["AccountingMetrics", "Begun", "Ended", "Ledger"]
