use super::*;

fn problems(text: &[u8]) -> String {
    let mut file = MovieFile::new(text);
    while file.next().unwrap().is_some() {}
    file.into_problems().to_string()
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
            assert!(found.starts_with(&format!("  line 3: {report}")), "{file:?}: {found}");
        }
    }
    let found = problems(b"movieId,title,genres\n1,A,Drama\n2,\xff\xfe,Drama\n");
    assert_eq!(found, "  line 3: title is not UTF-8: \"��\"");
}

#[test]
fn a_file_that_is_no_such_file_is_reported_by_its_first_line() {
    assert_eq!(problems(b""), "  line 1: the file is empty, its first line must be movieId,title,genres");
    assert_eq!(problems(b"movieId,title,genres\n"), "  line 1: the file has a header and no movies");
    assert_eq!(
        problems(b"id,title,genres\n1,A,Drama\n"),
        "  line 1: the header must be movieId,title,genres, not \"id,title,genres\""
    );
    assert!(
        problems(b"\x1f\x8b\x08\x00\x00")
            .starts_with("  line 1: the header must be movieId,title,genres, not")
    );
}

#[test]
fn empty_lines_are_passed_over_and_counted() {
    assert_eq!(problems(b"\n\nmovieId,title,genres\n\n1,A,Drama\n\n").as_str(), "");
    let found = problems(b"movieId,title,genres\r\n\r\n\r\n0,A,Drama\r\n\r\n");
    assert!(found.starts_with("  line 4: movie id \"0\""), "{found}");
}

#[test]
fn twenty_problems_are_shown_and_the_rest_is_counted() {
    let found = problems(format!("movieId,title,genres\n{}", "0,A,Drama\n".repeat(25)).as_bytes());
    assert_eq!(found.lines().count(), 21);
    assert!(found.ends_with("  … and 5 more"), "{found}");
}

#[test]
fn a_quote_that_is_never_closed_does_not_fill_the_memory() {
    let rest = io::repeat(b'x').take(1 << 30);
    let mut file = MovieFile::new((&b"movieId,title,genres\n1,\"A"[..]).chain(rest));
    assert_eq!(file.next().unwrap(), None);
    assert!(file.bytes() < 2 * RECORD_LIMIT);
    assert_eq!(file.into_problems().to_string(), "  line 2: more than 1024 KiB: is a closing quote missing?");
}
