//! Files that change: texts, Markdown and HTML of one chunk to some hundred.

use crate::folder::Folder;
use fastrand::Rng;
use std::fs;

/// How many files there are at first.
const FILES: usize = 300;

const WORDS: [&str; 12] = [
    "pool",
    "connection",
    "wörter",
    "単語",
    "commit.",
    "server,",
    "deadline",
    "rows",
    "never",
    "a",
    "<em>",
    "&amp;",
];

pub(crate) struct Corpus {
    names: Vec<String>,
    /// How many there have been.
    made: usize,
}

impl Corpus {
    pub(crate) fn make(folder: &Folder, rng: &mut Rng) -> Corpus {
        let mut corpus = Corpus { names: Vec::new(), made: 0 };
        for _ in 0..FILES {
            corpus.add(folder, rng);
        }
        corpus
    }

    /// Changes half of the files, removes some, and adds as many.
    pub(crate) fn change(&mut self, folder: &Folder, rng: &mut Rng) {
        for name in &self.names {
            if rng.bool() {
                folder.write(name, text(rng));
            }
        }
        for _ in 0..FILES / 20 {
            let gone = self.names.swap_remove(rng.usize(..self.names.len()));
            fs::remove_file(folder.path(&gone)).unwrap();
            self.add(folder, rng);
        }
    }

    fn add(&mut self, folder: &Folder, rng: &mut Rng) {
        let number = self.made;
        let ending = ["txt", "md", "html"][number % 3];
        let name = format!("{}/{number}.{ending}", number % 7);
        folder.write(&name, text(rng));
        self.made += 1;
        self.names.push(name);
    }
}

fn text(rng: &mut Rng) -> String {
    let mut text = format!("# Title {}\n\n", rng.u32(..));
    for _ in 0..rng.usize(1..1500) {
        text.push_str(rng.choice(WORDS).unwrap());
        text.push_str(if rng.u8(..20) == 0 { "\n\n" } else { " " });
    }
    text
}
