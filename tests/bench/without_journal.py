"""An API process whose ledger has no journal: what the journal's cost is measured against."""

import os
import sys
from unittest.mock import patch

from daemon.api import __main__ as api
from tests.support.former_release import WithoutJournal, no_entries

if __name__ == "__main__":
    with patch.object(api, "Database", WithoutJournal), no_entries():
        sys.exit(api.main(os.environ))
