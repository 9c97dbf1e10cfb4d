"""What PostgreSQL does for budgets by itself: each a function, so each is one round trip.

Order of locks, the same everywhere so that none waits in a circle: a reservation that exists
first, then counters by name. ``reserve`` looks at its counters only once it holds them all, so two
replicas never see the same room.
"""

RESERVE = """
CREATE FUNCTION kimiya_budget_reserve(
    p_id text, p_counters text[], p_usd_limits numeric[], p_token_limits bigint[],
    p_request_limits bigint[], p_usd numeric, p_tokens bigint, p_requests bigint,
    p_now_us bigint, p_expires_us bigint, p_counters_json text
) RETURNS TABLE (
    has_room boolean, has_expired boolean,
    spent_usd numeric, spent_tokens bigint, spent_requests bigint,
    reserved_usd numeric, reserved_tokens bigint, reserved_requests bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    refused boolean;
    stale boolean;
BEGIN
    IF (SELECT count(*) FROM budget_counters c WHERE c.counter = ANY(p_counters))
            < cardinality(p_counters) THEN
        INSERT INTO budget_counters
            SELECT name, 0, 0, 0, 0, 0, 0 FROM unnest(p_counters) AS name ORDER BY name
            ON CONFLICT DO NOTHING;
    END IF;
    PERFORM 1 FROM budget_counters c WHERE c.counter = ANY(p_counters)
        ORDER BY c.counter FOR UPDATE;
    SELECT EXISTS (
        SELECT 1 FROM unnest(p_counters) WITH ORDINALITY AS asked (name, n)
        JOIN budget_counters c ON c.counter = asked.name
        WHERE c.spent_usd + c.reserved_usd + p_usd > p_usd_limits[n]
            OR c.spent_tokens + c.reserved_tokens + p_tokens > p_token_limits[n]
            OR c.spent_requests + c.reserved_requests + p_requests > p_request_limits[n]
    ) INTO refused;
    stale := refused AND EXISTS (
        SELECT 1 FROM budget_reservations r WHERE r.state = 'open' AND r.expires_us <= p_now_us
    );
    RETURN QUERY
        SELECT (p_usd_limits[n] IS NULL
                OR c.spent_usd + c.reserved_usd + p_usd <= p_usd_limits[n])
            AND (p_token_limits[n] IS NULL
                OR c.spent_tokens + c.reserved_tokens + p_tokens <= p_token_limits[n])
            AND (p_request_limits[n] IS NULL
                OR c.spent_requests + c.reserved_requests + p_requests <= p_request_limits[n]),
            stale, c.spent_usd, c.spent_tokens, c.spent_requests,
            c.reserved_usd, c.reserved_tokens, c.reserved_requests
        FROM unnest(p_counters) WITH ORDINALITY AS asked (name, n)
        JOIN budget_counters c ON c.counter = asked.name ORDER BY n;
    IF refused THEN
        RETURN;
    END IF;
    UPDATE budget_counters c SET reserved_usd = c.reserved_usd + p_usd,
        reserved_tokens = c.reserved_tokens + p_tokens,
        reserved_requests = c.reserved_requests + p_requests
        WHERE c.counter = ANY(p_counters);
    INSERT INTO budget_reservations
        VALUES (p_id, 'open', p_expires_us, p_usd, p_tokens, p_requests, p_counters_json);
END $$
"""

SETTLE = """
CREATE FUNCTION kimiya_budget_settle(
    p_id text, p_counters text[], p_usd numeric, p_tokens bigint, p_requests bigint,
    p_expires_us bigint, p_counters_json text
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    held budget_reservations%ROWTYPE;
BEGIN
    INSERT INTO budget_reservations VALUES (p_id, 'new', p_expires_us, 0, 0, 0, p_counters_json)
        ON CONFLICT DO NOTHING;
    SELECT * INTO held FROM budget_reservations WHERE reservation_id = p_id FOR UPDATE;
    IF held.state = 'settled' THEN
        RETURN;
    END IF;
    IF held.state <> 'open' THEN
        held.usd := 0;
        held.tokens := 0;
        held.requests := 0;
    END IF;
    INSERT INTO budget_counters
        SELECT name, 0, 0, 0, 0, 0, 0 FROM unnest(p_counters) AS name
        WHERE NOT EXISTS (SELECT 1 FROM budget_counters c WHERE c.counter = name) ORDER BY name
        ON CONFLICT DO NOTHING;
    PERFORM 1 FROM budget_counters c WHERE c.counter = ANY(p_counters)
        ORDER BY c.counter FOR UPDATE;
    UPDATE budget_counters c SET spent_usd = c.spent_usd + p_usd,
        spent_tokens = c.spent_tokens + p_tokens,
        spent_requests = c.spent_requests + p_requests,
        reserved_usd = c.reserved_usd - held.usd,
        reserved_tokens = c.reserved_tokens - held.tokens,
        reserved_requests = c.reserved_requests - held.requests
        WHERE c.counter = ANY(p_counters);
    UPDATE budget_reservations SET state = 'settled' WHERE reservation_id = p_id;
END $$
"""

SWEEP = """
CREATE FUNCTION kimiya_budget_sweep(p_now_us bigint, p_keep_us bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    expired text[];
BEGIN
    SELECT array_agg(reservation_id) INTO expired FROM (
        SELECT reservation_id FROM budget_reservations
        WHERE state = 'open' AND expires_us <= p_now_us
        ORDER BY reservation_id FOR UPDATE SKIP LOCKED
    ) AS found;
    IF expired IS NOT NULL THEN
        PERFORM 1 FROM budget_counters c WHERE c.counter IN (
            SELECT jsonb_array_elements_text(r.counters::jsonb) FROM budget_reservations r
            WHERE r.reservation_id = ANY(expired)
        ) ORDER BY c.counter FOR UPDATE;
        UPDATE budget_counters c SET reserved_usd = c.reserved_usd - gone.usd,
            reserved_tokens = c.reserved_tokens - gone.tokens,
            reserved_requests = c.reserved_requests - gone.requests
            FROM (
                SELECT name, sum(r.usd) AS usd, sum(r.tokens)::bigint AS tokens,
                    sum(r.requests)::bigint AS requests
                FROM budget_reservations r, jsonb_array_elements_text(r.counters::jsonb) AS name
                WHERE r.reservation_id = ANY(expired) GROUP BY name
            ) AS gone
            WHERE c.counter = gone.name;
        UPDATE budget_reservations SET state = 'expired' WHERE reservation_id = ANY(expired);
    END IF;
    DELETE FROM budget_reservations
        WHERE state IN ('settled', 'expired') AND expires_us <= p_now_us - p_keep_us;
    RETURN coalesce(cardinality(expired), 0);
END $$
"""
