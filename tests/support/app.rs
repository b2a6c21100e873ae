pub(crate) struct App;
