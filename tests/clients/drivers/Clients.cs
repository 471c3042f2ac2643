// Clients of C#, run by Mono and by .NET Core: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).
using System;
using System.IO;
using System.Net;
using System.Net.Http;
using System.Text;
using System.Threading.Tasks;

class Clients
{
    static string operation, url, file;
    static int? status;

    static int Main(string[] arguments)
    {
        operation = arguments[1];
        url = arguments[2];
        file = arguments[3];
        string said;
        try
        {
            said = Run(arguments[0]);
        }
        catch (Exception error)
        {
            if (error is AggregateException) error = error.InnerException;
            var answer = (error as WebException)?.Response as HttpWebResponse;
            if (answer != null) status = (int)answer.StatusCode;
            said = "";
            for (var one = error; one != null; one = one.InnerException) said += one.GetType().Name + ": " + one.Message + "; ";
        }
        Console.WriteLine("{\"status\": " + (status?.ToString() ?? "null") + ", \"said\": " + Quoted(said) + "}");
        Environment.Exit(0); // threads of connections would keep it alive
        return 0;
    }

    static string Run(string client)
    {
        switch (client)
        {
            case "webclient": return WithWebClient();
            case "webrequest": return WithWebRequest(true);
            case "webrequest-unbuffered": return WithWebRequest(false);
            case "httpclient": return WithHttpClient(false).GetAwaiter().GetResult();
            case "httpclient-expect": return WithHttpClient(true).GetAwaiter().GetResult();
            default: throw new ArgumentException(client);
        }
    }

    static string Quoted(string text)
    {
        var quoted = new StringBuilder("\"");
        foreach (var one in text)
        {
            if (one == '"' || one == '\\' || one < ' ' || one > '~') quoted.AppendFormat("\\u{0:x4}", (int)one);
            else quoted.Append(one);
        }
        return quoted.Append('"').ToString();
    }

    static string WithWebClient()
    {
        using (var client = new WebClient())
        {
            if (operation == "get")
            {
                client.DownloadFile(url, file);
                status = 200;
                return "";
            }
            // The way of the first Pulzar's documentation.
            var said = Encoding.UTF8.GetString(client.UploadFile(url, "PUT", file));
            status = 201; // it tells none, and raises for what is an error
            return said;
        }
    }

    static string WithWebRequest(bool buffered)
    {
        var request = (HttpWebRequest)WebRequest.Create(url);
        if (operation != "get")
        {
            request.Method = "PUT";
            request.AllowWriteStreamBuffering = buffered;
            if (operation == "put") request.ContentLength = new FileInfo(file).Length;
            else request.SendChunked = true;
            using (var source = File.OpenRead(file))
            using (var body = request.GetRequestStream())
                source.CopyTo(body);
        }
        using (var answer = (HttpWebResponse)request.GetResponse())
        using (var stream = answer.GetResponseStream())
        {
            status = (int)answer.StatusCode;
            if (operation != "get") return new StreamReader(stream).ReadToEnd();
            using (var target = File.Create(file)) stream.CopyTo(target);
            return "";
        }
    }

    // A stream that doesn't tell its length, and can't be sent twice.
    class Unknown : HttpContent
    {
        protected override Task SerializeToStreamAsync(Stream stream, TransportContext context)
        {
            return source.CopyToAsync(stream);
        }

        protected override bool TryComputeLength(out long length)
        {
            length = 0;
            return false;
        }

        readonly Stream source = File.OpenRead(file);
    }

    static async Task<string> WithHttpClient(bool expect)
    {
        using (var client = new HttpClient())
        {
            client.DefaultRequestHeaders.ExpectContinue = expect;
            if (operation == "get")
            {
                var got = await client.GetAsync(url);
                status = (int)got.StatusCode;
                File.WriteAllBytes(file, await got.Content.ReadAsByteArrayAsync());
                return "";
            }
            if (operation == "head")
            {
                var told = await client.SendAsync(new HttpRequestMessage(HttpMethod.Head, url));
                status = (int)told.StatusCode;
                return told.Content.Headers.ContentLength.ToString();
            }
            if (operation == "again")
            {
                HttpResponseMessage first;
                using (var source = File.OpenRead(file)) first = await client.PutAsync(url, new StreamContent(source));
                await first.Content.ReadAsStringAsync();
                var second = await client.GetAsync(url.Replace("/add_key/", "/get_key/"));
                status = (int)second.StatusCode;
                File.WriteAllBytes(file, await second.Content.ReadAsByteArrayAsync());
                return ((int)first.StatusCode).ToString();
            }
            HttpContent body = operation == "stream" ? (HttpContent)new Unknown() : new StreamContent(File.OpenRead(file));
            if (operation == "form")
            {
                var form = new MultipartFormDataContent();
                form.Add(body, "file", "value");
                body = form;
            }
            var answer = await client.PutAsync(url, body);
            status = (int)answer.StatusCode;
            return await answer.Content.ReadAsStringAsync();
        }
    }
}
