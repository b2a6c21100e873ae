-- The reference service's tables. `poolhouse schema` applies this file, and so does
-- `psql --single-transaction --file config/schema.sql`. Applying it again changes nothing.

-- "Exists already, skipping" is no news.
select set_config('client_min_messages', 'warning', true);

-- Two at the same time go one after the other: "if not exists" alone is no protection from that.
select pg_advisory_xact_lock(hashtext('poolhouse schema'));

-- Takes the accents off letters. It comes with the server (Debian: package postgresql-contrib), and whoever may
-- create objects in this database may create it.
create extension if not exists unaccent;

-- The functions name what they call with its schema: pg_restore computes the generated column with an empty
-- search path. And unaccent may have been put anywhere before we came, so that its schema is looked up.
--
-- They are PL/pgSQL because an SQL function around unaccent, which is merely stable, cannot be inlined and costs
-- more per call. "Immutable" is a promise of ours: the rules of unaccent do not change underneath.
do $do$
declare
    ours constant text := quote_ident(current_schema());
    theirs constant text := (
        select quote_ident(nspname)
        from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
        where extname = 'unaccent');
begin
    -- The words of a text: lower case, no accents, everything but letters and digits taken as a space. A word of
    -- the index may have 2046 bytes: of the 500 characters looked at, none has more than 4.
    execute format($create$
        create or replace function %1$s.poolhouse_split(words text) returns text[]
        language plpgsql immutable strict parallel safe as $body$
        begin
            return string_to_array(btrim(left(regexp_replace(
                lower(%2$s.unaccent(%3$L::regdictionary, words)), '[^[:alnum:]]+', ' ', 'g'), 500)), ' ');
        end
        $body$
    $create$, ours, theirs, theirs || '.unaccent');

    -- What a title is found by. "Schindler's" is three words, so that "schindlers" finds it too.
    execute format($create$
        create or replace function %1$s.poolhouse_words(title text) returns tsvector
        language plpgsql immutable strict parallel safe as $body$
        declare
            words text[] := %1$s.poolhouse_split(title);
        begin
            if title ~ '[''’]' then
                words := words || %1$s.poolhouse_split(translate(title, '''’', ''));
            end if;
            return array_to_tsvector(words);
        end
        $body$
    $create$, ours);

    -- Free text as a query: a title must have every word, or a longer one that begins with it. A text without
    -- words is an empty query, which matches nothing, and about which the server should not send a notice.
    execute format($create$
        create or replace function %1$s.poolhouse_query(words text) returns tsquery
        language plpgsql immutable strict parallel safe set client_min_messages = warning as $body$
        begin
            return coalesce(
                (select string_agg(quote_literal(word) || ':*', ' & ') from unnest(%1$s.poolhouse_split(words)) word),
                '')::tsquery;
        end
        $body$
    $create$, ours);
end
$do$;

create table if not exists movies (
    movie_id integer not null,
    title text not null,
    year integer,
    genres text[] not null default '{}',
    search tsvector generated always as (poolhouse_words(title)) stored,
    constraint movies_pkey primary key (movie_id),
    constraint movies_movie_id_positive check (movie_id > 0),
    constraint movies_title_not_empty check (btrim(title) <> ''),
    constraint movies_year_plausible check (year between 1870 and 2200)
);

create index if not exists movies_search_idx on movies using gin (search);
create index if not exists movies_genres_idx on movies using gin (genres);
-- Pages by year carry on after a (year, movie_id).
create index if not exists movies_year_movie_id_idx on movies (year, movie_id);
