"""The zoo: small models and real data that the shipped configs and notebooks use. Nothing else imports it."""
