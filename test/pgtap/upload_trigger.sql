-- Triggers of business tables that make rows beside the one that was sent: parents of it, or the very
-- row that another change of the request brings. Each request is answered alike whether all of it can
-- be written together or something is refused beside it, and no change counts as another's.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(16);

-- A BEFORE trigger that makes the parent.
CREATE FUNCTION app.make_author() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.users (id, name) VALUES (new.author_id, 'made') ON CONFLICT DO NOTHING;
    RETURN new;
END
$$;
CREATE TRIGGER make_author BEFORE INSERT ON app.posts FOR EACH ROW WHEN (new.title = 'make')
    EXECUTE FUNCTION app.make_author();
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'posts', 'p1', 0, '{"author_id":"u1","title":"make"}')),
          '1 applied 2', 'a parent that the row''s own trigger makes');
SELECT is(up('ann', 'phone', change(2, 'INSERT', 'posts', 'p2', 0, '{"author_id":"u2","title":"make"}'),
                             change(3, 'INSERT', 'users', 'u3', 0, '{"name":null}')),
          '2 applied 4, 3 invalid constraint', 'the same beside a row that is refused');
SELECT is(up('ann', 'phone', change(4, 'INSERT', 'posts', 'p4', 0, '{"author_id":"u4","title":"make"}'),
                             change(5, 'INSERT', 'posts', 'p5', 0, '{"author_id":"u5","title":"none"}')),
          '4 applied 6, 5 invalid fk_missing', 'beside one whose parent nobody makes');
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'posts', 'q1', 0, '{"author_id":"u1","title":"make"}')),
          '1 invalid fk_missing', 'not one that only another user has');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is(up('ann', 'phone', change(6, 'INSERT', 'posts', 'p6', 0, '{"author_id":"u6","title":"make"}')),
          '6 applied 8', 'under REPEATABLE READ');
COMMIT;

-- The trigger of another row makes it.
CREATE FUNCTION app.make_post() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.posts VALUES ('post of ' || new.id, new.id, 'made');
    RETURN NULL;
END
$$;
CREATE TRIGGER make_post AFTER INSERT ON app.users FOR EACH ROW WHEN (new.name = 'writer')
    EXECUTE FUNCTION app.make_post();
SELECT is(up('ann', 'phone', change(10, 'INSERT', 'users', 'w1', 0, '{"name":"writer"}'),
                             change(11, 'INSERT', 'comments', 'c1', 0, '{"post_id":"post of w1","body":"x"}')),
          '10 applied 9, 11 applied 11', 'a parent that the trigger of another row makes');
SELECT is(up('ann', 'phone', change(12, 'INSERT', 'users', 'w2', 0, '{"name":"writer"}'),
                             change(13, 'INSERT', 'comments', 'c2', 0, '{"post_id":"post of w2","body":"x"}'),
                             change(14, 'INSERT', 'users', 'w3', 0, '{"name":null}'),
                             change(15, 'INSERT', 'comments', 'c3', 0, '{"post_id":"post of w3","body":"x"}')),
          '12 applied 12, 13 applied 14, 14 invalid constraint, 15 invalid fk_missing', 'the same beside a row that is refused');

-- It makes the row that another change brings.
SELECT is(up('ann', 'phone', change(20, 'INSERT', 'users', 'w4', 0, '{"name":"writer"}'),
                             change(21, 'INSERT', 'posts', 'post of w4', 0, '{"author_id":"w4","title":"mine"}')),
          '20 applied 15, 21 conflict 16', 'a row that a trigger was quicker to make is in conflict');
SELECT is(up('ann', 'phone', change(22, 'INSERT', 'users', 'w5', 0, '{"name":"writer"}'),
                             change(23, 'INSERT', 'posts', 'post of w5', 0, '{"author_id":"w5","title":"made"}')),
          '22 applied 17, 23 applied 19', 'unless it says the same');
SELECT is(up('ann', 'phone', change(20, 'INSERT', 'users', 'w4', 0, '{"name":"writer"}'),
                             change(23, 'INSERT', 'posts', 'post of w5', 0, '{"author_id":"w5","title":"made"}')),
          '20 applied 15, 23 applied 19', 'sent again');
SELECT results_eq('SELECT log(''ann'', 14)',
    ARRAY['15 users I w4 phone', '16 posts I post of w4 server', '17 users I w5 phone', '18 posts I post of w5 server',
          '19 posts U post of w5 phone'], 'each change is its maker''s');

-- A trigger that changes the key of the parent takes the new row along.
CREATE FUNCTION app.move_team() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE app.members SET team_id = new.team_id || '!' WHERE id = new.id;
    RETURN NULL;
END
$$;
CREATE FUNCTION app.make_team() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.teams VALUES (new.team_id || '!', 'made');
    RETURN new;
END
$$;
CREATE TRIGGER make_team BEFORE INSERT ON app.members FOR EACH ROW EXECUTE FUNCTION app.make_team();
CREATE TRIGGER move_team AFTER INSERT ON app.members FOR EACH ROW EXECUTE FUNCTION app.move_team();
SELECT is(up('ann', 'phone', change(30, 'INSERT', 'teams', 't1', 0, '{"name":"T"}'),
                             change(31, 'INSERT', 'members', 'm1', 0, '{"team_id":"t1"}')) ~ '^30 applied 20, 31 applied 2[12] [+]row$',
          true, 'triggers make another parent, and give the row to it');
SELECT results_eq('SELECT id, team_id FROM app.members', $$VALUES ('m1', 't1!')$$, 'it stays there');

-- What the caller has left to be checked is its own.
BEGIN;
SET LOCAL rowsync.scope = 'ann';
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO app.comments VALUES ('c9', 'nowhere', 'x');
SELECT is(refusal($$SELECT up('ann', 'phone', change(40, 'INSERT', 'users', 'u40', 0, '{"name":"x"}'))$$),
          '23503: insert or update on table "comments" violates foreign key constraint "comments_post_id_fkey"',
          'a reference that the caller has left dangling is no fault of a change');
ROLLBACK;
SELECT is(up('ann', 'phone', change(40, 'INSERT', 'users', 'u40', 0, '{"name":"x"}')) ~ '^40 applied', true, 'which is applied without it');
SELECT is_empty('SELECT problem, table_name, key FROM rowsync.verify()', 'nothing is broken');
SELECT finish();
