-- Whether older rules derived any row. The index attributions_of_older_rules, which is usually empty, answers it.
SELECT EXISTS (SELECT FROM stripe_attributions WHERE rules_version < 1)
