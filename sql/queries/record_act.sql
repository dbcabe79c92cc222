-- Records an operator's search or export.
INSERT INTO operator_acts (at, actor, action, detail) VALUES (now(), %(actor)s, %(action)s, %(detail)s)
