-- Whether older rules derived any row. The index attributions_before_consent, which is usually empty, answers it.
SELECT EXISTS (SELECT FROM stripe_attributions WHERE rules_version < 3)
