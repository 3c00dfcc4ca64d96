-- Headers are read as a whole and never searched: kept as they were written, they cost a commit less.

ALTER TABLE :"service".outbox ALTER COLUMN headers TYPE json;
