-- The replica's layout, from version 1 to version 2: since when the copy holds an edit.

-- Milliseconds since 1970, by the device's clock, of the first checkpoint that held it; null: none
-- has, or the service went back behind it. prune() counts from here.
ALTER TABLE edit ADD COLUMN held_at INTEGER;

-- note_held(): at every checkpoint, and so only what it may concern.
CREATE INDEX edit_not_held ON edit (epoch, sequence) WHERE held_at IS NULL;

-- Nobody knows any more since when: from now on, which is too long rather than too short.
UPDATE edit SET held_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000
WHERE NOT (epoch = (SELECT epoch FROM place) AND sequence > (SELECT mark FROM place));
