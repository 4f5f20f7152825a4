//! Pictures: a few shapes and texts, written as SVG that stands for itself (its style inside, nothing to load).

use std::fmt::Write as _;

/// A picture in the making. Places and sizes are in pixels, from the top left.
pub(super) struct Svg {
    out: String,
}

impl Svg {
    /// An empty picture; `style` says in CSS what its classes look like.
    pub fn new(width: u32, height: u32, style: &str) -> Self {
        let mut svg = Self { out: String::new() };
        svg.line(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">"
        ));
        svg.line(&format!("<style>\n{style}\n</style>"));
        svg
    }

    pub fn rect(&mut self, at: (u32, u32), size: (u32, u32), class: &str) {
        self.corners(at, size, 0, class);
    }

    pub fn rounded(&mut self, at: (u32, u32), size: (u32, u32), class: &str) {
        self.corners(at, size, 6, class);
    }

    fn corners(
        &mut self,
        (x, y): (u32, u32),
        (width, height): (u32, u32),
        radius: u32,
        class: &str,
    ) {
        self.line(&format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{radius}\"/>"
        ));
    }

    /// A text whose base line begins there.
    pub fn text(&mut self, (x, y): (u32, u32), class: &str, text: &str) {
        let text = escaped(text);
        self.line(&format!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"
        ));
    }

    /// A line that leaves its start and reaches its end level.
    pub fn curve(&mut self, from: (u32, u32), to: (u32, u32), class: &str) {
        let middle = from.0.midpoint(to.0);
        self.line(&format!(
            "<path class=\"{class}\" d=\"M{} {} C{middle} {} {middle} {} {} {}\"/>",
            from.0, from.1, from.1, to.1, to.0, to.1
        ));
    }

    /// The whole picture.
    pub fn finish(mut self) -> String {
        self.line("</svg>");
        self.out
    }

    fn line(&mut self, text: &str) {
        // Writing into memory.
        let _ = writeln!(self.out, "{text}");
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
