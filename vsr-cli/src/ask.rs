//! The same question to every replica at once, over the native ports.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::spawn_local;
use vsr_net::{Tool, ToolError};
use vsr_types::message::InspectTopic;

use crate::args::Global;
use crate::failure::Failure;

/// What became of a question at one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Answer<T> {
    /// Who was asked.
    pub(crate) endpoint: String,
    /// The answer, or in words why there is none.
    pub(crate) result: Result<T, String>,
}

impl<T> Answer<T> {
    /// The answer, if there is one.
    pub(crate) fn get(&self) -> Option<&T> {
        self.result.as_ref().ok()
    }
}

/// Connects to one replica.
pub(crate) async fn connect(global: &Global, endpoint: &str) -> Result<Tool, String> {
    let tool = Tool::connect(endpoint, global.cluster.as_deref(), global.timeout).await;
    tool.map_err(|error| without_endpoint(&error.to_string(), endpoint))
}

/// Asks one replica.
pub(crate) async fn inspect(
    global: &Global,
    endpoint: &str,
    topic: InspectTopic,
    argument: u64,
) -> Result<Value, String> {
    let mut tool = connect(global, endpoint).await?;
    let text = tool
        .inspect(topic, argument)
        .await
        .map_err(|error| words_of(error, endpoint))?;
    serde_json::from_str(&text).map_err(|error| format!("its answer is no JSON: {error}"))
}

/// Why a question was not answered, without the endpoint's name.
pub(crate) fn words_of(error: ToolError, endpoint: &str) -> String {
    match error {
        ToolError::Answer { message, .. } => plain_words(&message),
        other => without_endpoint(&other.to_string(), endpoint),
    }
}

/// Asks all replicas at once; the answers are in the order of the endpoints.
///
/// # Errors
/// Only when a task of ours stops.
pub(crate) async fn all<T: DeserializeOwned + 'static>(
    global: &Global,
    topic: InspectTopic,
    argument: u64,
) -> Result<Vec<Answer<T>>, Failure> {
    each(global, |global, endpoint| async move {
        let value = inspect(&global, &endpoint, topic, argument).await?;
        serde_json::from_value(value).map_err(|error| format!("unexpected answer: {error}"))
    })
    .await
}

/// Does `look` at all replicas at once; what became of it is in the order of the endpoints.
///
/// # Errors
/// Only when a task of ours stops.
pub(crate) async fn each<T, F>(
    global: &Global,
    mut look: impl FnMut(Global, String) -> F,
) -> Result<Vec<Answer<T>>, Failure>
where
    T: 'static,
    F: Future<Output = Result<T, String>> + 'static,
{
    let ask = |endpoint: &String| {
        let looks = look(global.clone(), endpoint.clone());
        let endpoint = endpoint.clone();
        spawn_local(async move {
            let result = looks.await;
            Answer { endpoint, result }
        })
    };
    let questions: Vec<_> = global.endpoints.iter().map(ask).collect();
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        let answer = question.await;
        answers.push(answer.map_err(|error| Failure::new(format!("a task stopped: {error}")))?);
    }
    Ok(answers)
}

/// A failure when nobody answered, with the advice that helps then.
pub(crate) fn somebody<T>(answers: &[Answer<T>]) -> Result<(), Failure> {
    if answers.iter().any(|answer| answer.result.is_ok()) {
        return Ok(());
    }
    let why = |answer: &Answer<T>| match &answer.result {
        Ok(_) => None,
        Err(why) => Some(format!("\n  {}: {why}", answer.endpoint)),
    };
    let lines: String = answers.iter().filter_map(why).collect();
    Err(Failure::new(format!("no replica answered:{lines}"))
        .next("name the replicas' native ports with --endpoints, or start them: `vsr-node start`"))
}

/// Tables name the endpoint already.
fn without_endpoint(text: &str, endpoint: &str) -> String {
    text.strip_prefix(endpoint)
        .and_then(|text| text.strip_prefix(": "))
        .unwrap_or(text)
        .to_owned()
}

/// A node refuses a question as `{"error": "..."}`.
fn plain_words(message: &str) -> String {
    let json: Option<Value> = serde_json::from_str(message).ok();
    let words = json
        .as_ref()
        .and_then(|json| json.get("error").unwrap_or(json).as_str());
    words.unwrap_or(message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_in_plain_words() {
        assert_eq!(
            plain_words(r#"{"error":"op 7 is not in the log"}"#),
            "op 7 is not in the log"
        );
        assert_eq!(plain_words(r#""as a string""#), "as a string");
        assert_eq!(plain_words("no JSON at all"), "no JSON at all");
    }

    #[test]
    fn the_endpoint_is_not_said_twice() {
        assert_eq!(without_endpoint("a:1: refused", "a:1"), "refused");
        assert_eq!(without_endpoint("refused", "a:1"), "refused");
    }

    #[test]
    fn silence_everywhere_is_a_failure_that_lists_the_reasons() {
        let silent = |endpoint: &str| Answer::<()> {
            endpoint: endpoint.to_owned(),
            result: Err("connection refused".to_owned()),
        };
        let failure = somebody(&[silent("a:1"), silent("b:2")]).expect_err("nobody answered");
        assert!(
            failure.message().contains("b:2: connection refused"),
            "{failure}"
        );
        let one = Answer {
            endpoint: "c:3".to_owned(),
            result: Ok(()),
        };
        assert!(somebody(&[silent("a:1"), one]).is_ok());
    }
}
