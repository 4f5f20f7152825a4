-- What an agent's engine lets builds be granted, and the devices that it can give a command. Agents that don't say have none.

ALTER TABLE agents
    ADD COLUMN entitlements text[] NOT NULL DEFAULT '{}',
    ADD COLUMN devices      text[] NOT NULL DEFAULT '{}';
