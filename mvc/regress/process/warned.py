"""What the process warns of: Python's warnings, and what is logged as a warning or worse."""

import logging
import warnings

MOST, LENGTH = 20, 500  # texts, and characters of each


class Warned:
    """Collects each text once, with its category, from when it is made.

    Attributes:
        texts: in the order in which they came, at most `MOST`, and one that says that there were more.
    """

    def __init__(self):
        self.texts = []
        self._show, self._record = warnings.showwarning, logging.getLogRecordFactory()
        warnings.showwarning = self._warning
        logging.setLogRecordFactory(self._logged)  # a handler would miss loggers that do not propagate

    def _warning(self, message, category, *where, **options):
        self._add(f"{category.__name__}: {message}")
        self._show(message, category, *where, **options)

    def _logged(self, *fields, **options):
        record = self._record(*fields, **options)
        if record.levelno >= logging.WARNING:
            self._add(f"{record.levelname} of {record.name}: {record.getMessage()}")
        return record

    def _add(self, text):
        text = " ".join(text.split())[:LENGTH]
        if text not in self.texts and len(self.texts) <= MOST:
            self.texts.append(text if len(self.texts) < MOST else "further warnings are not listed")
