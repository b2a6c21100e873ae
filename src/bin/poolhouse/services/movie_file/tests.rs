use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

fn problems(text: &[u8]) -> String {
    let mut file = MovieFile::new(text);
    while file.next().unwrap().is_some() {}
    file.into_problems().joined("\n")
}

#[test]
fn a_year_is_taken_off_the_titles_end_only_where_it_is_one() {
    for (text, title, year) in [
        ("Toy Story (1995)", "Toy Story", Some(1995)),
        ("(500) Days of Summer (2009)", "(500) Days of Summer", Some(2009)),
        ("Deadly Advice(1994)", "Deadly Advice", Some(1994)),
        ("Babylon 5", "Babylon 5", None),
        ("Death Note (2006–2007)", "Death Note (2006–2007)", None),
        ("From the Future (9999)", "From the Future (9999)", None),
        ("Plus (+199)", "Plus (+199)", None),
        ("(2019)", "(2019)", None),
        ("Open (1995", "Open (1995", None),
    ] {
        assert_eq!(split_year(text), (title, year), "{text}");
    }
}

#[test]
fn quotes_commas_accents_and_a_byte_order_mark_are_read() {
    let text = "\u{feff}movieId,title,genres\r\n\
                7,\"Misérables, Les (1995)\",Drama|War\r\n\
                8,\"Say \"\"When\"\" (2003) \",(no genres listed)";
    let mut file = MovieFile::new(text.as_bytes());
    let first =
        MovieLine { movie_id: 7, title: "Misérables, Les", year: Some(1995), genres: vec!["Drama", "War"] };
    assert_eq!(file.next().unwrap(), Some(first));
    let second = MovieLine { movie_id: 8, title: "Say \"When\"", year: Some(2003), genres: vec![] };
    assert_eq!(file.next().unwrap(), Some(second));
    assert_eq!(file.next().unwrap(), None);
    assert_eq!(file.bytes(), text.len() as u64);
    assert!(file.is_good());
}

#[test]
fn each_bad_line_is_reported_with_its_number_and_what_would_be_right() {
    for (line, report) in [
        ("0,A,Drama", "movie id \"0\": must be a whole number from 1 to 2147483647"),
        ("-1,A,Drama", "movie id \"-1\": must be"),
        ("+1,A,Drama", "movie id \"+1\": must be"),
        ("x,A,Drama", "movie id \"x\": must be"),
        (",A,Drama", "movie id \"\": must be"),
        ("1099511627776,A,Drama", "movie id \"1099511627776\": must be"),
        ("1,,Drama", "the title is empty"),
        ("1,  ,Drama", "the title is empty"),
        ("1,A\u{7}B,Drama", "the title \"A\\u{7}B\" contains a control character"),
        ("1,A,Cooking", "genre \"Cooking\": must be (no genres listed) or, separated by |, some of Action "),
        ("1,A,", "genre \"\": must be"),
        ("1,A,Drama|", "genre \"\": must be"),
        ("1,A,Drama|War|Drama", "genre \"Drama\" is given twice"),
        ("1,A", "2 fields instead of 3: movieId,title,genres"),
        ("1,A,Drama,War", "4 fields instead of 3"),
        ("1", "1 field instead of 3: movieId,title,genres"),
        ("1,\"A,Drama", "a line break inside a field: is a closing quote missing?"),
        ("1,A,\"Drama", "a line break inside a field: is a closing quote missing?"),
        ("5,A,Drama", "movie id 5 is on line 2 already"),
    ] {
        for (line_end, last) in [("\n", "\n"), ("\r\n", "\r\n"), ("\n", ""), ("\r\n", "")] {
            let file = ["movieId,title,genres", "5,Before,War", line].join(line_end) + last;
            let found = problems(file.as_bytes());
            assert!(found.starts_with(&format!("line 3: {report}")), "{file:?}: {found}");
        }
    }
    let found = problems(b"movieId,title,genres\n1,A,Drama\n2,\xff\xfe,Drama\n");
    assert_eq!(found, "line 3: title is not UTF-8: \"��\"");
}

#[test]
fn a_file_that_is_no_such_file_is_reported_by_its_first_line() {
    assert_eq!(problems(b""), "line 1: the file is empty, its first line must be movieId,title,genres");
    assert_eq!(problems(b"movieId,title,genres\n"), "line 1: the file has a header and no movies");
    assert_eq!(
        problems(b"id,title,genres\n1,A,Drama\n"),
        "line 1: the header must be movieId,title,genres, not \"id,title,genres\""
    );
    assert!(
        problems(b"\x1f\x8b\x08\x00\x00").starts_with("line 1: the header must be movieId,title,genres, not")
    );
}

#[test]
fn empty_lines_are_passed_over_and_counted() {
    assert_eq!(problems(b"\n\nmovieId,title,genres\n\n1,A,Drama\n\n").as_str(), "");
    let found = problems(b"movieId,title,genres\r\n\r\n\r\n0,A,Drama\r\n\r\n");
    assert!(found.starts_with("line 4: movie id \"0\""), "{found}");
}

#[test]
fn twenty_problems_are_shown_and_the_rest_is_counted() {
    let found = problems(format!("movieId,title,genres\n{}", "0,A,Drama\n".repeat(25)).as_bytes());
    assert_eq!(found.lines().count(), 21);
    assert!(found.ends_with("… and 5 more"), "{found}");
}

#[test]
fn a_quote_that_is_never_closed_does_not_fill_the_memory() {
    let rest = io::repeat(b'x').take(1 << 30);
    let mut file = MovieFile::new((&b"movieId,title,genres\n1,\"A"[..]).chain(rest));
    assert_eq!(file.next().unwrap(), None);
    assert!(file.bytes() < 2 * RECORD_LIMIT);
    assert_eq!(file.into_problems().joined("\n"), "line 2: more than 1024 KiB: is a closing quote missing?");
}

/// Lines of what means something in these files, and of what does not.
fn file() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: [&[u8]; 16] = [
        b"movieId,title,genres\n",
        b",",
        b"\"",
        b"\"\"",
        b"\n",
        b"\r\n",
        b"|",
        b"(1995)",
        b"Drama",
        b"War|Drama",
        b"(no genres listed)",
        b"17",
        b"-1",
        b"99999999999",
        b"\xff",
        "Amélie ".as_bytes(),
    ];
    let word = prop_oneof![4 => select(&WORDS[..]).prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..6)];
    let line = prop_oneof![
        vec(word, 0..8).prop_map(|words| words.concat()),
        (1..50_u32).prop_map(|id| format!("{id},A (1999),Drama\n").into_bytes()),
    ];
    vec(line, 0..20).prop_map(|lines| [b"movieId,title,genres\n".to_vec(), lines.concat()].concat())
}

proptest! {
    #[test]
    fn whatever_is_in_a_file_is_read_or_reported(text in file()) {
        let mut file = MovieFile::new(text.as_slice());
        let mut ids = std::collections::HashSet::new();
        while let Some(movie) = file.next().unwrap() {
            prop_assert!(movie.movie_id > 0 && ids.insert(movie.movie_id), "{:?}", movie);
            prop_assert!(!movie.title.trim().is_empty() && !movie.title.contains(char::is_control), "{:?}", movie);
            prop_assert!(movie.year.is_none_or(|year| YEARS.contains(&year)), "{:?}", movie);
            prop_assert!(movie.genres.iter().all(|genre| GENRES.contains(genre)), "{:?}", movie);
        }
        prop_assert!(file.bytes() == text.len() as u64 || !file.is_good(), "it stopped half way and says nothing");
        prop_assert!(!ids.is_empty() || !file.is_good(), "nothing was read and nothing reported");
        prop_assert!(!file.into_problems().joined(" ").contains(['\r', '\u{1b}']), "it moves the cursor");
    }

    #[test]
    fn whatever_a_movie_is_called_it_comes_back(
        titles in vec("[\\PC\",|()']{0,20}[a-z]", 1..20),
        genres in vec(subsequence(GENRES.to_vec(), 0..4), 20),
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(HEADER).unwrap();
        for (index, (title, genres)) in titles.iter().zip(&genres).enumerate() {
            let genres = if genres.is_empty() { NO_GENRES.to_owned() } else { genres.join("|") };
            let id = (index + 1).to_string();
            writer.write_record([id.as_str(), &format!("{title} (1999)"), genres.as_str()]).unwrap();
        }
        let text = writer.into_inner().unwrap();
        let mut file = MovieFile::new(text.as_slice());
        for (title, genres) in titles.iter().zip(genres) {
            let movie = file.next().unwrap().map(|movie| (movie.title.to_owned(), movie.year, movie.genres.len()));
            prop_assert_eq!(movie, Some((title.trim().to_owned(), Some(1999), genres.len())));
        }
        prop_assert_eq!(file.next().unwrap(), None);
        prop_assert!(file.is_good());
    }
}
