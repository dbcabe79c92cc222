-- What the newest complete export over HTTP contained, for each operator and each set of arguments: a download is compared
-- with it. Rows of more than 30 days are deleted when another is written.
CREATE TABLE export_manifests (
    operator  text NOT NULL,
    arguments text NOT NULL CONSTRAINT manifest_arguments_length CHECK (length(arguments) <= 2000),
    sent_at   timestamptz NOT NULL,
    manifest  json NOT NULL,
    PRIMARY KEY (operator, arguments)
);
CREATE INDEX manifests_by_time ON export_manifests (sent_at);
