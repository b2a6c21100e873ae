-- The reference service's tables. `poolhouse schema` applies this file, and so does
-- `psql --single-transaction --file config/schema.sql`. Applying it again changes nothing.

-- Hides the notices "already exists, skipping".
select set_config('client_min_messages', 'warning', true);

-- Two concurrent applications run one after the other: "if not exists" alone does not protect from a race.
select pg_advisory_xact_lock(hashtext('poolhouse schema'));

-- Removes accents. It comes with the server (Debian: package postgresql-contrib). It is a trusted extension: the right to
-- create objects in this database suffices.
create extension if not exists unaccent;

-- The functions qualify every name with its schema, because pg_restore computes the generated column with an empty
-- search path. The schema of unaccent is looked up: the extension may already exist in any schema.
--
-- They are PL/pgSQL because an SQL function around unaccent, which is only stable, cannot be inlined and costs more per
-- call. "Immutable" is our promise: the rules of unaccent do not change.
do $do$
declare
    ours constant text := quote_ident(current_schema());
    theirs constant text := (
        select quote_ident(nspname)
        from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
        where extname = 'unaccent');
begin
    -- The words of a text: in lower case, without accents, separated by everything that is no letter or digit. It uses the
    -- first 500 characters, of at most 4 bytes each, because a word of the index has at most 2046 bytes.
    execute format($create$
        create or replace function %1$s.poolhouse_split(words text) returns text[]
        language plpgsql immutable strict parallel safe as $body$
        begin
            return string_to_array(btrim(left(regexp_replace(
                lower(%2$s.unaccent(%3$L::regdictionary, words)), '[^[:alnum:]]+', ' ', 'g'), 500)), ' ');
        end
        $body$
    $create$, ours, theirs, theirs || '.unaccent');

    -- The words that find a title. "Schindler's" is three words, so that "schindlers" finds it too.
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

    -- Free text as a query: for each word a title must have a word that begins with it. A text without words is an empty
    -- query, which matches nothing; the server's notice about it is suppressed.
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

    -- How the text of documents is searched: English word stems, without accents. "if not exists" does not exist for it.
    if not exists (
        select from pg_ts_config where cfgname = 'poolhouse_documents' and cfgnamespace = current_schema()::regnamespace)
    then
        execute format('create text search configuration %1$s.poolhouse_documents (copy = pg_catalog.english)', ours);
        execute format($alter$
            alter text search configuration %1$s.poolhouse_documents
                alter mapping for hword, hword_part, word with %2$s.unaccent, pg_catalog.english_stem
        $alter$, ours, theirs);
    end if;
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
-- For pages of one year, which continue after a movie_id.
create index if not exists movies_year_movie_id_idx on movies (year, movie_id);

-- One row for each document, with the sizes its text was split by: other sizes split it again. "C" orders sources by their
-- bytes, so that the sources below a folder are one range of the index.
create table if not exists documents (
    document_id bigint generated always as identity,
    source text collate "C" not null,
    title text not null,
    media_type text not null,
    sha256 bytea not null,
    byte_length integer not null,
    chunk_bytes integer not null,
    overlap_bytes integer not null,
    loaded_at timestamptz not null default now(),
    constraint documents_pkey primary key (document_id),
    constraint documents_source_key unique (source),
    -- An entry of the index has at most 2704 bytes.
    constraint documents_source_length check (octet_length(source) between 1 and 2048),
    constraint documents_sha256_length check (octet_length(sha256) = 32)
);

-- The text of a document in pieces. The bytes from byte_start to byte_end of the document's text are this piece; the next
-- one may begin before byte_end. It is searched without < and >: between them the server's parser would take words for the
-- names of tags, and leave them out.
create table if not exists chunks (
    document_id bigint not null,
    ordinal integer not null,
    byte_start integer not null,
    byte_end integer not null,
    text text not null,
    search tsvector generated always as (to_tsvector('poolhouse_documents', translate(text, '<>', '  '))) stored,
    constraint chunks_pkey primary key (document_id, ordinal),
    constraint chunks_document_id_fkey foreign key (document_id) references documents on delete cascade,
    constraint chunks_byte_range check (0 <= byte_start and byte_start < byte_end)
);

create index if not exists chunks_search_idx on chunks using gin (search);
