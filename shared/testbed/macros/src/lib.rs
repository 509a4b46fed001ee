//! The attribute `#[testbed::test]`.

use std::iter::once;

use proc_macro::{Delimiter, Group, Ident, TokenStream, TokenTree};

/// The lints that `clippy.toml` switches off in tests of Cargo's own harness.
const ALLOWED: &str = "#[allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, \
    reason = \"a failed unwrap is a failed test\")]";

/// Registers a function as a test of a suite that `testbed::suite!` runs.
///
/// An `async fn` runs on one thread, as with `#[tokio::test]`: with `#[testbed::test(multi_thread)]`
/// beside two worker threads, with `#[testbed::test(paused)]` in paused time.
#[proc_macro_attribute]
pub fn test(options: TokenStream, function: TokenStream) -> TokenStream {
    let runner = match options.to_string().as_str() {
        "" => "block_on",
        "multi_thread" => "block_on_threads",
        "paused" => "block_on_paused",
        other => {
            let known = "expected `multi_thread` or `paused`";
            return error(&format!("unknown option `{other}`; {known}"));
        }
    };
    let tokens: Vec<TokenTree> = function.into_iter().collect();
    let Some(at) = tokens.iter().position(|token| is_word(token, "fn")) else {
        return error("`#[testbed::test]` belongs on a function");
    };
    let [TokenTree::Ident(name), .., TokenTree::Group(body)] = &tokens[at + 1..] else {
        return error("`#[testbed::test]` belongs on a function with a body");
    };
    let is_async = tokens[..at].iter().any(|token| is_word(token, "async"));
    let body = if is_async { blocking(body, runner) } else { body.clone() };
    let before = tokens[..at].iter().filter(|token| !is_word(token, "async"));
    let signature = &tokens[at..tokens.len() - 1];
    let function = before.chain(signature).cloned().chain(once(TokenTree::Group(body)));
    parse(ALLOWED).into_iter().chain(function).chain(registration(name)).collect()
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident.to_string() == word)
}

/// Returns a body that runs the asynchronous `body` to its end.
fn blocking(body: &Group, runner: &str) -> Group {
    let future = parse("async move").into_iter().chain(once(TokenTree::Group(body.clone())));
    let argument = TokenTree::Group(Group::new(Delimiter::Parenthesis, future.collect()));
    let call = parse(&format!("::testbed::{runner}")).into_iter().chain(once(argument));
    Group::new(Delimiter::Brace, call.collect())
}

fn registration(name: &Ident) -> TokenStream {
    parse(&format!(
        "::testbed::inventory::submit! {{ ::testbed::Case::new(\
            ::core::concat!(::core::module_path!(), \"::\", ::core::stringify!({name})), {name}) }}"
    ))
}

fn error(message: &str) -> TokenStream {
    parse(&format!("::core::compile_error!({message:?});"))
}

fn parse(code: &str) -> TokenStream {
    code.parse().expect("the code this macro writes is Rust")
}
